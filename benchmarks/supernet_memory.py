"""Memory of a supernet: it grows with the largest width, not with the number of widths or bit-widths.

Claim: each layer has one weight tensor of the largest size, which is sliced and then quantized. Ten channel factors
take the memory of the largest one, and eight bit-widths that of one.

    python benchmarks/supernet_memory.py         # two minutes; one process per row

Bytes are those of all parameters and buffers. Peak memory is the growth of the process's resident set over one training
step (forward, backward, SGD with momentum) of the widest path with 16 images of 64 x 64.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

from common import write_result

TEN = [round(0.2 * i, 1) for i in range(1, 11)]
ROWS = {
    "shufflenetv2, width 1.0": ("shufflenetv2", {"width": [1.0]}),
    "shufflenetv2, width 2.0": ("shufflenetv2", {"width": [2.0]}),
    "shufflenetv2, widths 0.2 and 2.0": ("shufflenetv2", {"width": [0.2, 2.0]}),
    "shufflenetv2, ten widths 0.2 to 2.0": ("shufflenetv2", {"width": TEN}),
    "resnet18, width 1.0": ("resnet18", {"width": [1.0]}),
    "resnet18, width 2.0": ("resnet18", {"width": [2.0]}),
    "resnet18, ten widths 0.2 to 2.0": ("resnet18", {"width": TEN}),
    "resnet18, 8 bits": ("resnet18", {"bits": [[8, 8]]}),
    "resnet18, 2 and 8 bits": ("resnet18", {"bits": [[2, 2], [8, 8]]}),
    "resnet18, 1 to 8 bits": ("resnet18", {"bits": [[b, b] for b in range(1, 9)]}),
}


def one(backbone: str, axes: dict[str, list[object]]) -> dict[str, float]:
    """Measures one supernet in this process."""
    import torch

    from spos_quant.backbones.build import build, load_space, space_of
    from spos_quant.space.spec import parse_spec

    raw = {"name": "x", "backbone": backbone, "input": [3, 64, 64], "classes": 1000, "axes": axes}
    space = space_of(parse_spec(raw, "x"))
    build(load_space("digits-mixed"))  # imports everything before the first measurement
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    supernet = build(space)
    supernet.activate([len(axis.candidates) - 1 for axis in space.axes])
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(16, 3, 64, 64), torch.arange(16)
    torch.nn.functional.cross_entropy(supernet(x), y).backward()
    optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    tensors = {id(t): t.numel() * t.element_size() for t in (*supernet.parameters(), *supernet.buffers())}
    return {
        "architectures": space.size,
        "tensor_bytes": sum(tensors.values()),
        "peak_growth_mib": round(peak / 1024, 1),
    }


def main() -> None:
    rows = []
    for name, (backbone, axes) in ROWS.items():
        command = [sys.executable, __file__, backbone, json.dumps(axes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = {"supernet": name, **json.loads(done.stdout)}
        rows.append(row)
        print(
            f"{name:38} {row['tensor_bytes']:>12,} bytes  {row['peak_growth_mib']:>8} MiB  {row['architectures']:.3g}"
        )
    write_result("supernet_memory", {"rows": rows})


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(one(sys.argv[1], json.loads(sys.argv[2]))))
    else:
        main()
