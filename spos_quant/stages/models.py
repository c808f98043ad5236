"""Models and batches of a run: the supernet, and the network of any bit configuration. Loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from spos_quant.backbones.build import build, space_of
from spos_quant.errors import ConfigError
from spos_quant.quant.switch import InputQuantizer
from spos_quant.space.bit_config import BitConfig
from spos_quant.space.locked import locked_spec
from spos_quant.stages.load import load_model
from spos_quant.stages.run import Run
from spos_quant.supernet.calibrate import calibrate_clips
from spos_quant.supernet.supernet import Supernet
from spos_quant.supernet.weights import inherit, load_weights, named_tensors, read_weights
from spos_quant.train.batches import FixedBatches

CALIBRATION_IMAGES = 256
FLOAT = "float"
FLOAT_KEY = f"bits-{FLOAT}"
"""Result key of the float backbone."""


def load_supernet(run: Run) -> Supernet:
    """The trained supernet of a run."""
    supernet = build(run.space, seed=run.seed)
    load_weights(supernet, read_weights(run.supernet_path), str(run.supernet_path))
    return supernet


def calibrate(run: Run, supernet: Supernet, only: set[InputQuantizer] | None = None) -> None:
    """Initialises activation clips from training images of the run."""
    if supernet.input_quantizers():
        images, _ = next(iter(calibration_batches(run)))
        calibrate_clips(supernet, images, only)


def calibration_batches(run: Run) -> FixedBatches:
    """One batch of training images under the training augmentation."""
    return FixedBatches(run.data, "train", images=CALIBRATION_IMAGES, batch_size=CALIBRATION_IMAGES, seed=run.seed)


def recalibration_batches(run: Run) -> FixedBatches:
    """The training images that BatchNorm statistics are recomputed from."""
    search = run.spec.search
    return FixedBatches(
        run.data, "train", images=search.recalibration_images, batch_size=search.batch_size, seed=run.seed
    )


def gradient_batches(run: Run) -> FixedBatches:
    """The training images of the gradient estimate."""
    search = run.spec.search
    return FixedBatches(run.data, "train", images=search.gradient_images, batch_size=search.batch_size, seed=run.seed)


def scoring_batches(run: Run, split: str, *, all_images: bool = False) -> FixedBatches:
    """The images of a split that score candidates, or all of them."""
    search = run.spec.search
    images = None if all_images else search.max_images
    return FixedBatches(run.data, split, images=images, batch_size=search.batch_size, seed=run.seed)


def make_network(
    run: Run, config: BitConfig, *, inherited: bool, seed: int, extra_bits: Sequence[int] = ()
) -> Supernet:
    """The network of a bit configuration before retraining: a supernet whose `subnet` of zeros is the plain model.

    Args:
        run: Its supernet provides the weights if `inherited`. Tensors missing there are initialised: clips from
            training images, learned scales from the weights.
        config: Any configuration of the run's network, in the space or not.
        inherited: If False, starts from fresh weights, or from the space's `weights` file.
        seed: Seed of fresh weights.
        extra_bits: Higher bit-widths that the network offers besides its own, as in `space.locked`.
    """
    network = build(space_of(locked_spec(run.space, config, extra_bits)), seed=seed)
    missing = {name for name, _ in named_tensors(network)}
    if inherited:
        missing = inherit(network, read_weights(run.supernet_path))
    network.start(missing)
    clips = {id(tensor) for name, tensor in named_tensors(network) if name in missing}
    fresh = {q for q in network.input_quantizers() if any(id(p) in clips for p in q.parameters())}
    if fresh:
        calibrate(run, network, fresh)
    return network


def float_teacher(run: Run, share: float) -> nn.Module | None:
    """The float teacher of a distillation; None if `share` is 0.

    It is the backbone with the space's `weights`; if there are none, the model of `retrain --bits float`.

    Args:
        run: The run.
        share: The teacher's share of the loss.

    Raises:
        ConfigError: there are neither weights nor a trained float model.
    """
    if not share:
        return None
    if run.spec.weights is not None:
        return build(space_of(locked_spec(run.space, run.space.uniform_config(None, None)))).subnet(())
    trained = run.result(FLOAT_KEY)
    if not trained.model_path.exists():
        raise ConfigError(
            f"retrain.distill needs the float model; make it with: spos-quant retrain {run.path} --bits float"
        )
    return load_model(trained)


def teacher_files(run: Run, share: float) -> list[Path]:
    """The files that `float_teacher` reads and the run's settings do not name."""
    return [run.result(FLOAT_KEY).model_path] if share and run.spec.weights is None else []
