"""The C header of a network: it compiles and contains the numbers of the graph."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from integer_cases import graph

from spos_quant.export.integer.c_header import c_header
from spos_quant.export.integer.graph import Layer

PROGRAM = """
#include <stdio.h>
#include "network.h"
int main(void) {{
    long long total = 0;
    const int n = sizeof({name}_weight) / sizeof({name}_weight[0]);
    for (int i = 0; i < n; i++) total += (i + 1) * {name}_weight[i];
    printf("%lld %d %.9g %d\\n", total, {name}_bias[1], (double){name}_multiplier[1], {upper}_OUTPUT_HIGH);
    return 0;
}}
"""


def test_the_header_compiles_and_contains_the_integers(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    made = graph("resnet", 4, 4)
    layer = next(op for op in made.ops if isinstance(op, Layer) and not op.wide)
    (tmp_path / "network.h").write_text(c_header(made))
    name = "n_" + layer.name.replace(".", "_")
    (tmp_path / "main.c").write_text(PROGRAM.format(name=name, upper=name.upper()))
    build = [compiler, "-std=c99", "-Wall", "-Werror", "-Wno-unused-const-variable", "-Wno-unused-variable"]
    subprocess.run([*build, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    total, bias, multiplier, high = subprocess.run(
        ["./main"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.split()
    flat = layer.weight.ravel().astype(int)
    assert int(total) == sum((i + 1) * v for i, v in enumerate(flat.tolist()))
    assert int(bias) == layer.bias[1]
    source = made.tensor_qparams()[layer.inputs[0]]
    assert float(multiplier) == pytest.approx(float(source.scale * layer.scale[1] / layer.qparams.scale), rel=1e-6)
    assert int(high) == layer.qparams.codes(layer.limits)[1]
