"""Distributed training: every rank runs the same stage, started by torchrun.

If all devices are in one machine, a command starts the ranks itself. Otherwise start torchrun on each machine:

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \
        --max-restarts 3 -m spos_quant.stages.distributed RUN supernet        # or results/KEY
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext

from spos_quant import interrupt
from spos_quant.errors import SposQuantError, printable
from spos_quant.progress import remark
from spos_quant.run_dir import claim
from spos_quant.stages.launch_ranks import OWN_STORE, OWNED, RANK_MODULE, SUPERNET, is_rank
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.retrain import retrain_in_process
from spos_quant.stages.run import Run
from spos_quant.stages.train import train_in_process


def main() -> None:
    """Runs one rank; if torchrun did not start this process, launches all ranks on this machine."""
    path, what, *rest = sys.argv[1:]
    device = rest[0] if rest else "auto"
    try:
        if is_rank():
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
    if os.environ["RANK"] == "0" and os.environ["GROUP_WORLD_SIZE"] != "1" and os.environ.get(OWN_STORE) != "1":
        remark(f"warning: start torchrun with {OWN_STORE}=1 on each machine, or a job that loses a rank may stall")
    with _owned(run):
        if what == SUPERNET:
            train_in_process(run, device=device, show=True)
        else:
            retrain_in_process(run.at(what), device=device, show=True)


def _owned(run: Run) -> AbstractContextManager[None]:
    """Rank 0 locks the run for all ranks, unless the command that started them has."""
    return claim(run.path) if os.environ["RANK"] == "0" and OWNED not in os.environ else nullcontext()


def _launch(path: str, what: str, device: str) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    run = open_existing(path)
    config = run.spec.train if what == SUPERNET else run.at(what).recipe
    ranks = ["-m", RANK_MODULE, path, what, device]
    try:
        torchrun(["--standalone", "--nproc-per-node", str(config.devices), *ranks])
    except (ChildFailedError, SignalException):  # the ranks printed the cause; torchrun's traceback adds nothing
        sys.exit(1)


if __name__ == "__main__":
    main()
