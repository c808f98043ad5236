"""Distributed training: every rank runs the same stage, started by torchrun.

If all devices are in one machine, a command starts the ranks itself. Otherwise start torchrun on each machine:

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \
        --max-restarts 3 -m spos_quant.stages.distributed RUN supernet        # or results/KEY
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext

from spos_quant import interrupt
from spos_quant.config import TrainConfig
from spos_quant.errors import ConfigError, RunError, SposQuantError, printable
from spos_quant.progress import remark
from spos_quant.run_dir import claim, locks
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.run import Run
from spos_quant.train.batches import TrainingSteps

SUPERNET = "supernet"
"""What to train: this, or the path of a result relative to the run directory."""
_OWNED = "SPOS_QUANT_OWNED"
"""Environment variable: the command that started the ranks holds the run's lock."""

_OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""If 1, each start of a job has its own key-value store. Otherwise ranks that torchrun restarts read stale addresses of
their peers in the store and spend restarts on connecting to dead processes (PyTorch issue 135712)."""


def in_ranks(run: Run, what: str, config: TrainConfig, device: str) -> bool:
    """Trains in one process per device if there are several ranks; returns False if this process must train itself.

    Raises:
        ConfigError: the ranks cannot share a batch evenly, or they are on several machines, where the user must start
            the launchers.
        RunError: one of the processes failed.
    """
    if config.ranks == 1 or _is_rank():
        return False
    TrainingSteps(run.data, config.batch_size, run.seed, world_size=config.ranks)  # raises for an uneven batch
    if config.num_nodes > 1:
        raise ConfigError(
            f"num_nodes={config.num_nodes}: start this on each machine: {_OWN_STORE}=1 torchrun "
            f"--nnodes {config.num_nodes} --nproc-per-node {config.devices} --rdzv-backend c10d "
            f"--rdzv-endpoint HOST:29400 --max-restarts 3 "
            f"-m spos_quant.stages.distributed {run.path} {what}; then repeat this command"
        )
    command = [sys.executable, "-m", "spos_quant.stages.distributed", str(run.path), what, device]
    # Ranks that outlive this process still write to the run, so they inherit its lock.
    with subprocess.Popen(command, pass_fds=locks(), env={**os.environ, _OWNED: "1"}) as launcher:
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


def _is_rank() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def main() -> None:
    """Runs one rank; if torchrun did not start this process, launches all ranks on this machine."""
    path, what, *rest = sys.argv[1:]
    device = rest[0] if rest else "auto"
    try:
        if _is_rank():
            interrupt.install("training was interrupted")
            _train(path, what, device)
        else:
            _launch(path, what, device)
    except KeyboardInterrupt:
        os._exit(interrupt.EXIT_STATUS)
    except SposQuantError as error:
        remark(f"rank {os.environ.get('RANK', '-')}: error: {error}")
        sys.exit(2)
    except RuntimeError as error:  # raised by a collective operation if another rank has died
        remark(f"rank {os.environ.get('RANK', '-')}: {printable(f'{type(error).__name__}: {error}')}")
        sys.exit(1)


def _train(path: str, what: str, device: str) -> None:
    run = open_existing(path)
    if os.environ["RANK"] == "0" and os.environ["GROUP_WORLD_SIZE"] != "1" and os.environ.get(_OWN_STORE) != "1":
        remark(f"warning: start torchrun with {_OWN_STORE}=1 on each machine, or a job that loses a rank may stall")
    with _owned(run):
        if what == SUPERNET:
            from spos_quant.stages.train import train_here

            train_here(run, device=device, show=True)
        else:
            from spos_quant.stages.retrain import retrain_here

            retrain_here(run.at(what), device=device, show=True)


def _owned(run: Run) -> AbstractContextManager[None]:
    """Rank 0 locks the run for all ranks, unless the command that started them has."""
    return claim(run.path) if os.environ["RANK"] == "0" and _OWNED not in os.environ else nullcontext()


def _launch(path: str, what: str, device: str) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    run = open_existing(path)
    config = run.spec.train if what == SUPERNET else run.at(what).recipe
    ranks = ["-m", "spos_quant.stages.distributed", path, what, device]
    try:
        torchrun(["--standalone", "--nproc-per-node", str(config.devices), *ranks])
    except (ChildFailedError, SignalException):  # the ranks printed the cause; torchrun's traceback adds nothing
        sys.exit(1)


if __name__ == "__main__":
    main()
