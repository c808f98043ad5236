"""Starts a training in several ranks, one per device, if its settings ask for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from spos_quant.config import TrainConfig
from spos_quant.errors import ConfigError, RunError
from spos_quant.run_dir import locks
from spos_quant.stages.run import Run
from spos_quant.train.batches import TrainingBatches

RANK_MODULE = "spos_quant.stages.distributed"
"""Runs as `python -m`, once per rank; by name, since it imports the stages that import this file."""
SUPERNET = "supernet"
"""What to train: this, or the path of a result relative to the run directory."""
OWNED = "SPOS_QUANT_OWNED"
"""Environment variable: the command that started the ranks holds the run's lock."""

OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""If 1, each start of a job has its own key-value store. Otherwise ranks that torchrun restarts read stale addresses of
their peers in the store and spend restarts on connecting to dead processes (PyTorch issue 135712)."""


def train_distributed(run: Run, what: str, config: TrainConfig, device: str) -> bool:
    """Trains in one process per device if there are several ranks; returns False if this process must train itself.

    Raises:
        ConfigError: the ranks cannot share a batch evenly, or they are on several machines, where the user must start
            the launchers.
        RunError: one of the processes failed.
    """
    if config.ranks == 1 or is_rank():
        return False
    TrainingBatches(run.data, config.batch_size, run.seed, world_size=config.ranks)  # raises for an uneven batch
    if config.num_nodes > 1:
        raise ConfigError(
            f"num_nodes={config.num_nodes}: start this on each machine: {OWN_STORE}=1 torchrun "
            f"--nnodes {config.num_nodes} --nproc-per-node {config.devices} --rdzv-backend c10d "
            f"--rdzv-endpoint HOST:29400 --max-restarts 3 "
            f"-m {RANK_MODULE} {run.path} {what}; then repeat this command"
        )
    command = [sys.executable, "-m", RANK_MODULE, str(run.path), what, device]
    # Ranks that outlive this process still write to the run, so they inherit its lock.
    with subprocess.Popen(command, pass_fds=locks(), env={**os.environ, OWNED: "1"}) as launcher:
        try:
            failed = launcher.wait()
        except KeyboardInterrupt:
            launcher.send_signal(signal.SIGTERM)  # torchrun forwards it; the ranks stop after their current step
            launcher.wait()
            raise
    if failed:
        raise RunError(
            f"training on {config.devices} devices failed (see above); repeat the command to resume from the last "
            "checkpoint"
        )
    return True


def is_rank() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ
