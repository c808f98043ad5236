"""The operators of choice blocks. A new one is a function `BlockSpec -> Operator`, registered under a name.

The inner channels of an operator follow the width axis. Its input and output channels never do, so no layer's cost
depends on another block (decision record 0001).
"""

from __future__ import annotations

from spos_quant.registry import Registry
from spos_quant.supernet.blocks import OperatorMaker

operators: Registry[OperatorMaker] = Registry(
    "operator",
    builtin_modules=tuple(
        f"spos_quant.supernet.operators.{name}" for name in ("residual", "shuffle", "mobile", "cell")
    ),
)
