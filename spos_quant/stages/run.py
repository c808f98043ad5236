"""`Run`: a run directory, its configuration, and where its artifacts lie."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from spos_quant.backbones.build import space_of
from spos_quant.config import RetrainConfig
from spos_quant.cost.latency import read_latency_csv
from spos_quant.cost.table import CostTable
from spos_quant.errors import RunError, near
from spos_quant.loggers import LogTarget
from spos_quant.reading import read_yaml
from spos_quant.run_dir import check, drop, json_text, read_artifact, store, store_json
from spos_quant.space.search_space import SearchSpace
from spos_quant.space.spec import SpaceSpec, parse_spec

if TYPE_CHECKING:
    from spos_quant.data import DataSet

FORMAT = 2
CONFIG = "config.yaml"
RESULTS, RANKING = "results", "ranking"
"""Folders of a run: what it is for, and networks that are trained only to hold the supernet's ranking against."""
_SEED = "seed-"
_MODEL = "model"
"""How the names begin of everything that is made of a retrained model."""


@dataclass(frozen=True)
class Run:
    """A run directory. Its configuration never changes once it is written, except for what no model depends on."""

    path: Path
    spec: SpaceSpec
    data_source: str
    seed: int

    @cached_property
    def space(self) -> SearchSpace:
        """The search space."""
        return space_of(self.spec)

    @cached_property
    def table(self) -> CostTable:
        """Costs of the search space, latencies among them where the run has a table of them."""
        if not self.latency_path.exists():
            return CostTable(self.space)
        check(self.latency_path)
        return CostTable(self.space, read_latency_csv(self.latency_path))

    @cached_property
    def data(self) -> DataSet:
        """The data set, loaded at first use."""
        from spos_quant.data import load_data

        channels, height, width = self.spec.input
        return load_data(self.data_source, input=(channels, height, width), classes=self.spec.classes, seed=self.seed)

    @property
    def supernet_path(self) -> Path:
        """Weights of the trained supernet."""
        return self.path / "supernet.safetensors"

    @property
    def checkpoint_path(self) -> Path:
        """The supernet's training that is under way."""
        return self.path / "checkpoint.safetensors"

    @property
    def log_path(self) -> Path:
        """Every evaluation of the run."""
        return self.path / "evaluations.sqlite"

    @property
    def latency_path(self) -> Path:
        """How long layers of the space take."""
        return self.path / "latency.csv"

    @property
    def bench_path(self) -> Path:
        """The last bench."""
        return self.path / "bench.json"

    @property
    def ranking_path(self) -> Path:
        """The last ranking."""
        return self.path / "ranking.json"

    def sensitivity_path(self, estimate: str) -> Path:
        """The sensitivities, `measured` or by `gradient`."""
        return self.path / ("sensitivity.json" if estimate == "measured" else f"sensitivity-{estimate}.json")

    def bench(self) -> dict[str, Any]:
        """What the last bench measured; empty where there was none."""
        found: dict[str, Any] = read_artifact(self.bench_path) if self.bench_path.exists() else {}
        return found

    def ranking(self) -> dict[str, Any]:
        """What the last ranking found; empty where there was none."""
        found: dict[str, Any] = read_artifact(self.ranking_path) if self.ranking_path.exists() else {}
        return found

    def result(self, key: str) -> Result:
        """Where a result lies, existing or not."""
        return Result(self, key)

    def at(self, place: str) -> Result:
        """The result that calls this its place."""
        *shelf, key = PurePosixPath(place).parts
        seed = int(key.removeprefix(_SEED)) if key.startswith(_SEED) else None
        if seed is not None:
            key = shelf.pop()
        return Result(self, key, seed, "/".join(shelf))

    def results(self) -> list[Result]:
        """The results of this run that have a bit configuration."""
        folders = sorted((self.path / RESULTS).glob("*/"))
        found = [Result(self, folder.name) for folder in folders]
        return [result for result in found if result.bits_path.exists()]

    def pick(self, key: str | None) -> Result:
        """The result that a person means: the one named, the only one, or the only searched one.

        Raises:
            RunError: no result, an unknown name, or several to choose from.
        """
        results = self.results()
        keys = [result.key for result in results]
        if key is not None:
            if key not in keys:
                raise RunError(f"{self.path} has no result {key!r}{near(key, keys)}")
            return self.result(key)
        if not results:
            raise RunError(
                f"{self.path} has no result yet; make one with: spos-quant search {self.path} --bitops-budget B"
            )
        searched = [result for result in results if result.searched]
        for group in (results, searched):
            if len(group) == 1:
                return group[0]
        raise RunError(f"{self.path} has several results; name one with --result: {', '.join(keys)}")

    def logs(self, name: str) -> LogTarget:
        """Where curves of that name go."""
        return LogTarget(self.path / "logs", self.spec.name, name, self.spec.model_dump(mode="json"))

    def config_text(self, assigned: Mapping[str, Any]) -> str:
        """What `config.yaml` says."""
        config = {
            "format": FORMAT,
            "data": self.data_source,
            "seed": self.seed,
            "set": {key: dict(value) if isinstance(value, Mapping) else value for key, value in assigned.items()},
            "space": self.spec.model_dump(mode="json"),
        }
        return yaml.safe_dump(config, sort_keys=False)


@dataclass(frozen=True)
class Result:
    """One bit configuration of a run and everything made of it: `results/KEY/`.

    A retraining with another seed than the run's lies in `results/KEY/seed-N/`, its bit configuration above it.
    """

    run: Run
    key: str
    seed: int | None = None
    """The seed of its retraining; None is the run's own."""
    shelf: str = RESULTS
    """The folder of the run that it lies in."""

    def with_seed(self, seed: int) -> Result:
        """The same configuration, retrained with this seed."""
        return replace(self, seed=None if seed == self.run.seed else seed)

    @property
    def training_seed(self) -> int:
        """What its retraining follows from: order of images, augmentation, fresh weights."""
        return self.run.seed if self.seed is None else self.seed

    @property
    def recipe(self) -> RetrainConfig:
        """How it is retrained."""
        return self.run.spec.retrain if self.shelf == RESULTS else self.run.spec.ranked

    @property
    def name(self) -> str:
        """What progress and curves call it."""
        return self.key if self.seed is None else f"{self.key}-{_SEED}{self.seed}"

    @property
    def place(self) -> str:
        """Its folder within the run, which names it to other processes."""
        return self.path.relative_to(self.run.path).as_posix()

    @property
    def folder(self) -> Path:
        """Where its bit configuration lies, whatever the seed."""
        return self.run.path / self.shelf / self.key

    @property
    def path(self) -> Path:
        """Where its model lies."""
        return self.folder if self.seed is None else self.folder / f"{_SEED}{self.seed}"

    @property
    def bits_path(self) -> Path:
        """Its bit configuration."""
        return self.folder / f"{self.run.spec.name}.bits.json"

    @property
    def model_path(self) -> Path:
        """Weights of the retrained model."""
        return self.path / f"{_MODEL}.safetensors"

    @property
    def folded_path(self) -> Path:
        """The integers that its retraining ended in; absent without `retrain.fold`."""
        return self.path / f"{_MODEL}-folded.safetensors"

    @property
    def metrics_path(self) -> Path:
        """What is known of the retrained model."""
        return self.path / "metrics.json"

    @property
    def search_path(self) -> Path:
        """What the search says of it; absent for configurations that were given."""
        return self.folder / "search.json"

    @property
    def asked_path(self) -> Path:
        """The architectures that the search asked for."""
        return self.folder / "asked.json"

    @property
    def exports_path(self) -> Path:
        """What was exported of it."""
        return self.path / "exports.json"

    @property
    def card_path(self) -> Path:
        """What people should know of the model, beside its files."""
        return self.path / f"{_MODEL}-card.md"

    @property
    def checkpoint_path(self) -> Path:
        """The retraining that is under way."""
        return self.path / "checkpoint.safetensors"

    @property
    def searched(self) -> bool:
        """Whether a search found it."""
        return self.search_path.exists()

    def metrics(self) -> dict[str, Any]:
        """What is known of the retrained model; empty before retraining."""
        found: dict[str, Any] = read_artifact(self.metrics_path) if self.metrics_path.exists() else {}
        return found

    def search(self) -> dict[str, Any]:
        """What the search says of it; empty for configurations that were given."""
        found: dict[str, Any] = read_artifact(self.search_path) if self.searched else {}
        return found

    def asked(self) -> dict[str, Any]:
        """What the search asked for; empty where there was none."""
        found: dict[str, Any] = read_artifact(self.asked_path) if self.asked_path.exists() else {}
        return found

    def put_bits(self, config: Mapping[str, Any]) -> None:
        """Writes its bit configuration; whatever was made of another one goes first."""
        text = json_text(config)
        if self.bits_path.exists() and self.bits_path.read_text("utf-8", "replace") != text:
            for each in self._seeds():
                drop(each.checkpoint_path, each.metrics_path, each.exports_path)
                drop(*each.path.glob(f"{_MODEL}*"))  # weights, card, and every format
        store(self.bits_path, text.encode("utf-8"))

    def _seeds(self) -> list[Result]:
        """This configuration with every seed that it was retrained with."""
        others = [int(path.name.removeprefix(_SEED)) for path in self.folder.glob(f"{_SEED}*/")]
        return [replace(self, seed=seed) for seed in (None, *others)]

    def update_metrics(self, **values: Any) -> dict[str, Any]:
        """Adds to what is known of the retrained model."""
        known = {**self.metrics(), **values}
        store_json(self.metrics_path, known)
        return known

    def need_model(self) -> None:
        """Raises `RunError` where the model was not retrained yet."""
        if not self.model_path.exists():
            raise RunError(
                f"{self.path} is not retrained yet; do it with: spos-quant retrain {self.run.path} --result {self.key}"
            )


def read_run(path: Path) -> tuple[Run, dict[str, Any]]:
    """The run in a directory, and the settings that were given with `--set`.

    Raises:
        RunError: no such directory, none of a run, or one that is damaged or of another version.
        SpaceError: settings that are none.
    """
    try:
        is_there, is_run = path.is_dir(), (path / CONFIG).exists()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    if not is_there:
        raise RunError(f"run directory {path} does not exist; make one with: spos-quant train SPACE --out {path}")
    if not is_run:
        raise RunError(f"{path} is no run directory (no {CONFIG}); give a search space, or the directory of a run")
    check(path / CONFIG)
    raw = read_yaml(path / CONFIG)
    if type(raw.get("format")) is int and raw["format"] == 1:
        raise RunError(
            f"{path} is of format 1, in which splits and subsets of images followed the order of files: its supernet "
            "was trained on images that search-val holds now, and max_images scored candidates on the first classes "
            "(docs/reliability.md). None of its evaluations is used; make the run again with another --out"
        )
    known = type(raw.get("format")) is int and raw["format"] == FORMAT
    if not known or not {"data", "seed", "space", "set"} <= raw.keys():
        raise RunError(f"{path}/{CONFIG} is of format {raw.get('format')!r}; this version reads format {FORMAT}")
    seed, source, assigned = raw["seed"], raw["data"], raw["set"]
    if type(seed) is not int or not 0 <= seed < 2**31 or not isinstance(source, str) or not isinstance(assigned, dict):
        raise RunError(f"{path}/{CONFIG} is damaged (data, seed or set); restore it, or start anew with another --out")
    return Run(path, parse_spec(raw["space"], f"{path}/{CONFIG}"), source, seed), assigned


def environment() -> dict[str, Any]:
    """What a result may depend on beside its configuration."""
    packages: dict[str, str | None] = {}
    for name in ("spos-quant", "torch", "torchvision", "brevitas", "numpy", "onnx", "onnxruntime", "lightning-fabric"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages,
    }
