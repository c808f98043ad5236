"""Retraining stage: trains the low-bit model of a bit configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from spos_quant.backbones.build import build, space_of
from spos_quant.config import RetrainConfig
from spos_quant.cost.rows import config_rows, summary
from spos_quant.errors import ConfigError, SpaceError
from spos_quant.run_dir import digest, drop
from spos_quant.space.bit_config import BitConfig, parse_uniform, read_bit_config
from spos_quant.space.locked import locked_spec
from spos_quant.space.search_space import SearchSpace
from spos_quant.stages.evaluate import evaluate_result
from spos_quant.stages.fold import fold_in_process, folds, graph_of, is_folded
from spos_quant.stages.launch_ranks import train_distributed
from spos_quant.stages.models import FLOAT_KEY, float_teacher, make_network, recalibration_batches, teacher_files
from spos_quant.stages.run import Result, Run
from spos_quant.supernet.weights import save_weights
from spos_quant.train.batches import TrainingBatches
from spos_quant.train.devices import make_fabric
from spos_quant.train.evaluation import recalibrate
from spos_quant.train.loop import Training, fit
from spos_quant.train.paths import Paths
from spos_quant.train.progressive import LADDER, descent


def user_result(run: Run, bits: str) -> Result:
    """The result of a configuration that the user gave: `w4a4`, `float`, or a file. A new configuration is written.

    Raises:
        SpaceError: `bits` is none of these, or does not fit the network.
        ConfigError: a result of that name has another configuration.
    """
    uniform = parse_uniform(bits)
    if uniform is not None:
        config = run.space.uniform_config(*uniform)
        result = run.result(f"bits-{bits.lower()}")
    else:
        path = Path(bits)
        if not path.is_file():
            raise SpaceError(f"{bits!r} is neither a bit configuration file nor uniform bits such as w4a4, or `float`")
        config = read_bit_config(path)
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", path.name.removesuffix(".json").removesuffix(".bits"))
        result = run.result(f"bits-{name}")
    # Stores the quantizer explicitly, even if it is the default of the run.
    config = config.model_copy(update={"quantizer": config.quantizer or run.spec.retrain_quantizer})
    rows = config_rows(run.space, config)
    cost = summary(rows, space=run.space.name, architecture=None, full_precision=run.spec.full_precision)
    written = config.model_copy(update={"cost": {k: cost[k] for k in ("formula", "bitops", "macs")}}).to_json()
    if result.bits_path.exists():
        if _decisions(read_bit_config(result.bits_path)) != _decisions(config):
            raise ConfigError(f"{result.path} holds another configuration of that name; rename {bits}")
    else:
        # Raises for an unknown quantizer, operator or bit-width before anything is written.
        build(space_of(locked_spec(run.space, config)))
        result.write_bit_config(written)
    return result


def _decisions(config: BitConfig) -> tuple[Any, ...]:
    return config.layers, config.blocks, config.quantizer


def retrain_result(result: Result, *, device: str, show: bool) -> dict[str, Any]:
    """Retrains a result if needed; returns `key`, `model`, `search_val`, `fold` and `skipped`."""
    skipped = result.model_path.exists() and (is_folded(result) or not folds(result))
    if not skipped and not train_distributed(result.run, result.place, result.recipe, device):
        retrain_in_process(result, device=device, show=show)
    return {
        "key": result.key,
        "model": str(result.model_path),
        "search_val": evaluate_result(result, "search-val", device=device, show=show),
        "fold": result.metrics().get("fold"),
        "skipped": skipped,
    }


def retrain_in_process(result: Result, *, device: str, show: bool) -> None:
    """Quantization-aware training in this process: the only rank or one of several."""
    if not result.model_path.exists():
        _train_here(result, device=device, show=show)
    if folds(result) and not is_folded(result):
        fold_in_process(result, device=device, show=show)


def _train_here(result: Result, *, device: str, show: bool) -> None:
    run = result.run
    settings = result.recipe
    config = read_bit_config(result.bits_path)
    fabric = make_fabric(settings, device)
    network = make_network(
        run,
        config,
        inherited=settings.init == "inherit",
        seed=result.training_seed,
        extra_bits=LADDER if settings.progressive else (),
    )
    paths = _descent(run, network.space, config, settings) if settings.progressive else None
    own = (0,) * len(network.space.axes)
    if folds(result):
        graph_of(result, network.subnet(own))  # raises before the training if there is no integer form
    model = network if paths else network.subnet(own)
    training = Training(
        run.data,
        settings,
        result.training_seed,
        f"retrain {result.name}",
        show,
        checkpoint=result.checkpoint_path,
        identity=_identity(result),
        loggers=run.spec.log,
        logs=run.logs(f"retrain-{result.name}"),
    )
    records = fit(fabric, model, training, teacher=float_teacher(run, _distilled(result)), paths=paths)
    if fabric.global_rank == 0:
        if paths:
            model = network.subnet(own)
        # The running statistics lag behind the final weights. Uses the recalibration of the search.
        recalibrate(model, recalibration_batches(run))
        save_weights(model, result.model_path, {"history": records})
        drop(result.checkpoint_path)
    fabric.barrier()


def _descent(run: Run, space: SearchSpace, config: BitConfig, settings: RetrainConfig) -> Paths:
    per_epoch = TrainingBatches(run.data, settings.batch_size, run.seed).per_epoch
    return descent(space, config, settings.progressive, settings.steps(per_epoch))


def _distilled(result: Result) -> float:
    """The teacher's share of the loss; 0 for the float model, which is the teacher."""
    return 0.0 if result.key == FLOAT_KEY else result.recipe.distill


def _identity(result: Result) -> str:
    """Digests of the files that a retraining depends on, besides the run's settings."""
    used = [result.bits_path]
    if result.recipe.init == "inherit":
        used.append(result.run.supernet_path)
    used += teacher_files(result.run, _distilled(result))
    return " ".join(digest(path) for path in used if path.exists())
