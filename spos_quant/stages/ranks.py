"""Training on several devices: the same stage, started once per device by torchrun.

torchrun --nproc-per-node 8 -m spos_quant.stages.ranks RUN supernet auto    # or results/KEY
"""

from __future__ import annotations

import os
import subprocess
import sys

from spos_quant import interrupt
from spos_quant.config import TrainConfig
from spos_quant.errors import RunError
from spos_quant.run_dir import locks
from spos_quant.stages.plan import open_existing
from spos_quant.stages.run import Run


def in_ranks(run: Run, what: str, config: TrainConfig, device: str) -> bool:
    """Trains in one process per device where the configuration asks for several; False leaves it to this process.

    Raises:
        RunError: one of the processes failed.
    """
    if config.devices == 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        return False
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(config.devices)]
    command += ["-m", "spos_quant.stages.ranks", str(run.path), what, device]
    # Ranks that outlive this process go on writing, so that they must go on owning the run.
    done = subprocess.run(command, check=False, pass_fds=locks())
    if done.returncode:
        raise RunError(f"training on {config.devices} devices failed (see above); repeat the command to try again")
    return True


def main() -> None:
    """One rank: trains `supernet`, or retrains the result at that place."""
    path, what, device = sys.argv[1:]
    interrupt.install("training was interrupted")
    run = open_existing(path)
    if what == "supernet":
        from spos_quant.stages.train import train_here

        train_here(run, device=device, show=True)
    else:
        from spos_quant.stages.retrain import retrain_here

        retrain_here(run.at(what), device=device, show=True)


if __name__ == "__main__":
    main()
