"""The BitOps of the paper's uniform models, from our search spaces.

Claim: `resnet18-mixed` and `resnet34-mixed` reproduce Table 6 of arXiv 1904.00420 to the digit; its "G" is 2^30.

    python benchmarks/paper_bitops.py            # seconds, no torch
"""

from __future__ import annotations

import sys

from common import write_result

from spos_quant.backbones.build import load_space
from spos_quant.stages.cost import architecture_cost

PAPER = {"resnet18-mixed": (6.32, 14.21, 25.27), "resnet34-mixed": (13.21, 29.72, 52.83)}


def main() -> int:
    rows = []
    for name, published in PAPER.items():
        space = load_space(name)
        for bits, theirs in zip((2, 3, 4), published, strict=True):
            ours = architecture_cost(space, uniform=f"w{bits}a{bits}")["bitops"] / 2**30
            rows.append({"space": name, "bits": f"w{bits}a{bits}", "ours_Gi": round(ours, 3), "paper": theirs})
            print(f"{name:15} w{bits}a{bits}  {ours:7.3f} Gi   paper {theirs}")
    wrong = [row for row in rows if round(row["ours_Gi"], 2) != row["paper"]]
    write_result("paper_bitops", {"rows": rows})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
