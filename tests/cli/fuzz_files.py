"""Valid search spaces and bit configurations, and random corruptions of them."""

from __future__ import annotations

import copy
import json
from importlib.resources import files

import numpy as np
import yaml
from cli_cases import SPACE

from spos_quant.backbones.build import load_space

BUILT_IN = ("digits-mixed", "digits-blocks", "resnet20-mixed")
OVERRIDES = SPACE + (
    "bits_per: layer\nkeep_float: [first, fc]\ngroups: [[layer1.0.conv1, layer1.1.conv1]]\n"
    "overrides: {'layer2.*': {weight_bits: [1, 8], act_bits: [4]}}\ntrain: {epochs: 3, lr: 0.1}\n"
)
# YAML tags that would run code if a loader obeyed them; `CODE` is their placeholder until the tree is written.
CODE = "@code@"
TAGS = (
    "!!python/object/apply:os.system ['touch {ran}']",
    "!!python/object/apply:subprocess.check_output [['touch', '{ran}']]",
    "!!python/object/new:os.system ['touch {ran}']",
    '!!python/object/apply:builtins.eval [\'open("{ran}", "w")\']',
    "!!python/name:os.system ''",
    "!!python/module:antigravity ''",
    "!!python/tuple [1, 2]",
    "!include {ran}",
    "&a [*a]",
    "*nobody",
    "!!int ''",
    "!!timestamp soon",
    "!!binary '?'",
)
ODD = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        3,
        9,
        33,
        10**9,
        10**30,
        0.0,
        -0.5,
        0.5,
        1e-320,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        " ",
        "float",
        "null",
        "../../evil",
        "a/b",
        "a\nb",
        "\x1b[31m",
        "é漢\u202e",
        "x" * 5000,
        "*",
        "[",
        "**a",
        "=",
        "<<",
    ),
    *([], {}, [[]], [[2, 2]], [1, [2, [3]]], {"a": {"b": {}}}, {"bits": [[2, 2]]}, list(range(150)), ["skip"]),
)


def valid_spaces() -> list[str]:
    """Texts of search spaces that must be read."""
    return [SPACE, OVERRIDES, *((files("search_spaces") / f"{name}.yaml").read_text("utf-8") for name in BUILT_IN)]


def valid_configs(rng: np.random.Generator) -> list[dict]:
    """Bit configurations of digits-mixed that must be read: sampled and uniform ones."""
    space = load_space("digits-mixed")
    return [space.uniform_config(4, 4).to_json(), *(space.bit_config(space.sample(rng)).to_json() for _ in range(5))]


class Fuzz:
    """Makes random files.

    Args:
        rng: The source of all randomness.
        ran: The file that code in a text would create.
    """

    def __init__(self, rng: np.random.Generator, ran: str) -> None:
        self.rng, self.ran = rng, ran
        self.spaces, self.configs = valid_spaces(), valid_configs(rng)

    def space(self) -> tuple[bytes, bool]:
        """A search space's file, and whether it must be read."""
        text = self._pick(self.spaces)
        kind = self.rng.random()
        if kind < 0.2:
            return self._same_space(text).encode(), True
        if kind < 0.4:
            return self._corrupted(text.encode()), False
        tree = self._changed(yaml.safe_load(text), [CODE, *ODD])
        made = yaml.safe_dump(tree, sort_keys=False, allow_unicode=bool(self.rng.integers(2)))
        while CODE in made:
            made = made.replace(f"'{CODE}'", CODE).replace(CODE, self._pick(TAGS).format(ran=self.ran), 1)
        return made.encode("utf-8", "surrogatepass"), False

    def config(self) -> tuple[bytes, bool]:
        """A bit configuration's file, and whether it must be read."""
        raw = copy.deepcopy(self._pick(self.configs))
        kind = self.rng.random()
        if kind < 0.2:
            return self._same_config(raw).encode(), True
        if kind < 0.4:
            return self._corrupted(json.dumps(raw, indent=1).encode()), False
        return json.dumps(self._changed(raw, ODD)).encode(), False

    def _pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def _same_space(self, text: str) -> str:
        """The same search space in another order and style, with other recipes."""
        tree = yaml.safe_load(text)
        keys = list(tree)
        self.rng.shuffle(keys)
        tree = {key: tree[key] for key in keys}
        tree["train"] = {**tree.get("train", {}), "epochs": int(self.rng.integers(1, 500))}
        tree["search"] = {**tree.get("search", {}), "mutation_prob": float(self.rng.random())}
        style = self._pick([None, True, False])
        return "# fuzz\n" * int(self.rng.integers(3)) + yaml.safe_dump(tree, sort_keys=False, default_flow_style=style)

    def _same_config(self, raw: dict) -> str:
        """A valid bit configuration: other bits, another order, without optional keys."""
        for bits in raw["layers"].values():
            if bits["weight_bits"] is not None:
                bits.update(weight_bits=int(self.rng.integers(1, 33)), act_bits=int(self.rng.integers(1, 33)))
            if self.rng.integers(2):
                del bits["out_channels"]
        raw["provenance"] = {"seed": int(self.rng.integers(99))}
        keys = list(raw)
        self.rng.shuffle(keys)
        return json.dumps({key: raw[key] for key in keys}, indent=self._pick([None, 0, 3]))

    def _changed(self, tree, odd):
        """The tree with one to four random deletions, renames, swaps, nestings or replacements."""
        for _ in range(int(self.rng.integers(1, 5))):
            places = list(_places(tree))
            if not places:
                break
            owner, key = self._pick(places)
            other_owner, other_key = self._pick(places)
            action = self._pick(["delete", "rename", "swap", "nest", "replace", "replace", "replace"])
            if action == "delete":
                del owner[key]
            elif action == "rename" and isinstance(owner, dict):
                new = self._pick([f"{key}s", str(key)[:-1], str(key).upper(), "", 3, None, 1.5, "a\nb", "k" * 2000])
                owner[new] = owner.pop(key)
            elif action == "swap":
                owner[key], other_owner[other_key] = copy.deepcopy((other_owner[other_key], owner[key]))
            elif action == "nest":
                for _ in range(int(self.rng.integers(1, 80))):
                    owner[key] = self._pick([[owner[key]], {"a": owner[key]}])
            else:
                owner[key] = copy.deepcopy(self._pick(odd))
        return tree

    def _corrupted(self, data: bytes) -> bytes:
        """The bytes truncated, overwritten in places, with lines lost or repeated, or with foreign bytes inserted."""
        action = self._pick(["cut", "flip", "lines", "insert"])
        if action == "cut":
            return data[: int(self.rng.integers(len(data)))]
        if action == "flip":
            flipped = bytearray(data)
            for place in self.rng.integers(len(data), size=int(self.rng.integers(1, 6))):
                flipped[place] = int(self.rng.integers(256))
            return bytes(flipped)
        if action == "lines":
            lines = data.splitlines(keepends=True)
            return b"".join(lines[i] for i in np.sort(self.rng.integers(len(lines), size=len(lines))))
        place = int(self.rng.integers(len(data)))
        chunks = [
            b"\0",
            b"\xff",
            b"\t",
            b"[" * 500,
            b"{" * 500,
            b"- " * 500,
            b'"',
            b"'",
            b"\n---\n",
            b"&a ",
            b"*a ",
            b": ",
        ]
        chunks += [
            b"9" * 5000,
            b"0x" + b"f" * 9000,
            b"!!python/name:os.system ",
            b"\n? ",
            b"%",
            b"\r",
            b"#",
            b"|\n",
            b"1:59",
        ]
        return data[:place] + self._pick(chunks) + data[place:]


def _places(tree):
    """Every container of a tree with each of its keys or indices."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])
