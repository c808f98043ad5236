"""Opens a run from command-line arguments: resolves and checks its settings, and locks its directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from spos_quant.backbones.build import build, load_spec
from spos_quant.config import RayConfig, RetrainConfig, SearchConfig, SupernetTrainConfig, assign
from spos_quant.errors import ConfigError, RunError
from spos_quant.run_dir import LOCK, claim, listed, store, store_json
from spos_quant.space.spec import SpaceSpec, parse_spec
from spos_quant.stages.run import CONFIG, Run, environment, read_run
from spos_quant.train.paths import make_sampler

SECTIONS: dict[str, type[BaseModel] | None] = {
    "train": SupernetTrainConfig,
    "retrain": RetrainConfig,
    "search": SearchConfig,
    "rank": RetrainConfig,
    "log": None,
    "ray": RayConfig,
}
"""Targets of `--set`: sections with keys, and top-level keys (None)."""
_FREE = (
    *("search.*", "rank", "rank.*", "log", "ray.*"),
    *("*.data_workers", "*.checkpoint_*", "*.nonfinite", "retrain.fold"),
)
"""Keys that may change between commands. No model depends on them; artifacts that do depend store their values."""
_ENVIRONMENT = "environment.json"


@dataclass(frozen=True)
class Options:
    """The options of a run that the user gave; None and empty take the value of the run or the space."""

    out: Path | None = None
    data: str | None = None
    seed: int | None = None
    assignments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A run to be created or resumed.

    Attributes:
        run: The run.
        assigned: Settings of `--set` to be written; None if the directory already holds them.
        found: The text of `config.yaml` when the plan was made; None if it did not exist.
    """

    run: Run
    assigned: Mapping[str, Any] | None
    found: str | None

    @contextmanager
    def open(self) -> Iterator[Run]:
        """Locks the run directory, writes the settings and yields the run.

        Raises:
            RunError: another process holds the lock or changed the run in the meantime, or the directory cannot be
                written.
        """
        path = self.run.path
        with claim(path):
            if _text(path / CONFIG) != self.found:
                raise RunError(f"{path} was changed by another command in the meantime; repeat this one")
            if self.assigned is not None:
                self._write(self.run.config_text(self.assigned))
            if not (path / _ENVIRONMENT).exists():
                store_json(path / _ENVIRONMENT, environment())
            yield self.run

    def _write(self, text: str) -> None:
        path = self.run.path / CONFIG
        made = hashlib.sha256(text.encode("utf-8")).hexdigest()
        if self.found is None and made not in (listed(path) or (made,)):
            raise RunError(
                f"{self.run.path} lost its {CONFIG}, and this command would write another one: repeat the command "
                "that made the run, with the same space, data, seed and --set, or choose another --out"
            )
        store(path, text.encode("utf-8"))


def plan_run(target: str, options: Options) -> Plan:
    """Resolves the argument SPACE or RUN and the options to a run; writes nothing.

    An existing directory takes precedence over a space of the same name.

    Raises:
        RunError: a directory holds no run, or a run with other settings (the message shows the difference).
        ConfigError, SpaceError, DataError: an option, a space or a data set is wrong.
    """
    path = Path(target)
    if path.is_dir():
        if options.out is not None and options.out.resolve() != path.resolve():
            raise ConfigError(f"{target} is a run directory itself; leave --out away, or name a search space")
        return _existing(path, None, options)
    spec = load_spec(target)
    out = options.out or Path("runs") / spec.name
    if (out / "config.yaml").exists():
        return _existing(out, spec, options)
    _check_out(out)
    return _new(out, spec, options)


def _check_out(out: Path) -> None:
    """Raises `RunError` if `out` holds something other than a run; a lock alone, or checksums, come from a run."""
    try:
        foreign = out.exists() and (not out.is_dir() or any(p.name != LOCK for p in out.iterdir()))
    except OSError as error:
        raise RunError(f"{out}: cannot be used for a run ({error.strerror}); choose another --out") from None
    if foreign and not listed(out / CONFIG):
        raise RunError(f"{out} holds something else than a run (no {CONFIG}); choose another --out")


def plan_existing(target: str, options: Options | None = None) -> Plan:
    """The run in a directory, to be resumed. Raises `RunError` if there is none."""
    return _existing(Path(target), None, options or Options())


def open_existing(target: str) -> Run:
    """The run in a directory, to be read. Raises `RunError` if there is none."""
    return plan_existing(target).run


def _new(out: Path, spec: SpaceSpec, options: Options) -> Plan:
    assigned = _assigned(options)
    spec = _apply(spec, assigned)
    source = spec.data if options.data is None else options.data
    if source is None:
        raise ConfigError(
            f"space {spec.name!r} names no data set; give --data digits, cifar10[:ROOT], imagefolder:ROOT, fake or "
            "package.module:function"
        )
    run = Run(out, spec, absolute_source(source), 0 if options.seed is None else options.seed)
    # Check data, path sampler, quantizers and weights before anything is written.
    _ = run.data
    make_sampler(run.spec.train, run.table, run.seed)
    if spec.train.iterations == 0 and spec.weights is None:
        raise ConfigError(
            f"train.iterations=0 uses the weights of the space without training, and space {spec.name!r} names none; "
            "give weights: FILE in its YAML, or train"
        )
    _check_quantizers(spec)
    build(run.space)
    return Plan(run, assigned, None)


def _check_quantizers(spec: SpaceSpec) -> None:
    """Raises `ConfigError` if the quantizer of the retraining is unknown."""
    from spos_quant.quant.quantizers import quantizer_pair

    quantizer_pair(spec.retrain_quantizer)


def _existing(path: Path, written: SpaceSpec | None, options: Options) -> Plan:
    found = _text(path / CONFIG)
    run, assigned = read_run(path)
    spec = run.spec
    given = _assigned(options)
    wanted = _apply(spec if written is None else _apply(written, assigned), given)
    changes = _differences(run, wanted, options)
    if changes:
        raise RunError(
            f"{path} is a run of other settings: {'; '.join(changes)}. "
            "Leave those options away, or choose another --out"
        )
    # The remaining differences are allowed; data and name stay those of the run.
    wanted = wanted.model_copy(update={"data": spec.data, "name": spec.name})
    if wanted == spec:
        return Plan(run, None, found)
    return Plan(Run(path, wanted, run.data_source, run.seed), _merged(assigned, given), found)


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a NUL character in the path
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Assignments by section and key; newer ones take precedence."""
    merged = dict(old)
    for key, value in new.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
    return merged


def _differences(run: Run, wanted: SpaceSpec, options: Options) -> list[str]:
    found = []
    for label, ours, theirs in (
        ("data", run.data_source, None if options.data is None else absolute_source(options.data)),
        ("seed", run.seed, options.seed),
    ):
        if theirs is not None and theirs != ours:
            found.append(f"{label} is {ours!r} there, {theirs!r} was asked for")
    ours_flat, wanted_flat = _flat(run.spec.model_dump(mode="json")), _flat(wanted.model_dump(mode="json"))
    for key in sorted(ours_flat.keys() | wanted_flat.keys()):
        a, b = ours_flat.get(key), wanted_flat.get(key)
        if a != b and key not in ("data", "name") and not _is_free(key):
            found.append(f"{key} is {json.dumps(a)} there, {json.dumps(b)} was asked for")
    return found[:6]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix.rstrip("."): tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat


def model_settings(section: str, settings: BaseModel) -> dict[str, Any]:
    """The settings of a section that models depend on, as plain values."""
    values = settings.model_dump(mode="json")
    return {key: value for key, value in values.items() if not _is_free(f"{section}.{key}")}


def _is_free(key: str) -> bool:
    return any(fnmatch(key, free) for free in _FREE)


def _assigned(options: Options) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for assignment in options.assignments:
        assign(tree, assignment, SECTIONS)
    return tree


def spec_with_settings(target: str, assignments: Sequence[str]) -> SpaceSpec:
    """A search space with settings of the command line, for commands without a run."""
    return _apply(load_spec(target), _assigned(Options(assignments=tuple(assignments))))


def _apply(spec: SpaceSpec, assigned: Mapping[str, Any]) -> SpaceSpec:
    if not assigned:
        return spec
    return parse_spec(_merged(spec.model_dump(mode="json"), assigned), "--set")


def absolute_source(source: str) -> str:
    """A data source with its folder, if it names one, as an absolute path."""
    name, colon, root = source.partition(":")
    if colon and name in ("imagefolder", "cifar10"):
        try:
            return f"{name}:{Path(root).expanduser().resolve()}"
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"data {source!r}: {error}") from None
    return source
