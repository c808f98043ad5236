"""`spos-quant export`: writes a retrained model to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.errors import ConfigError


@app.command()
def export(
    run_dir: o.RunArg,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="onnx, onnx-qcdq, onnx-packed, onnx-int8, integers, qonnx [float model: onnx, else onnx-qcdq].",
        ),
    ] = None,
    c_header: Annotated[
        bool, typer.Option("--c-header", help="With `--format integers`: writes the same numbers as a C header too.")
    ] = False,
    result_key: o.ResultKey = None,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Exports the retrained model and checks that the file predicts what the model predicts."""
    if c_header and form != "integers":
        raise ConfigError("--c-header needs --format integers")
    from spos_quant.stages.open_run import plan_existing

    plan = plan_existing(run_dir)
    picked = plan.run.pick(result_key)
    picked.require_model()
    from spos_quant.stages.export import export_result, natural_format, write_header

    with plan.open():
        result = export_result(picked, form or natural_format(picked), show=True)
        if c_header:
            write_header(Path(result["path"]))
    if as_json:
        return show.emit(result)
    show.say(
        f"{result['path']}: {result['bytes']:,} bytes, labels agree on {show.percent(result['agreement'])}, "
        f"largest difference of a logit {result['max_abs_diff']:.2g}"
    )
