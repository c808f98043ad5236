"""`spos-quant retrain`: trains a searched or given bit configuration."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.errors import ConfigError


@app.command()
def retrain(
    run_dir: o.RunArg,
    bits: Annotated[
        str | None, typer.Option("--bits", metavar="BITS", help="A bit configuration file, w4a4, or float.")
    ] = None,
    result_key: o.ResultKey = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Quantization-aware training of the searched subnet, or of any bit configuration."""
    o.check_device(device)
    from spos_quant.stages.open_run import Options, plan_existing
    from spos_quant.stages.retrain import retrain_result, user_result

    if bits is not None and result_key is not None:
        raise ConfigError("give either --bits or --result, not both")
    with plan_existing(run_dir, Options(assignments=tuple(assignments or ()))).open() as opened:
        _need_supernet(opened)
        result = opened.pick(result_key) if bits is None else user_result(opened, bits)
        done = retrain_result(result, device=device, show=True)
    if done["skipped"]:
        show.remark(f"{result.key}: already finished, skipped")
    if as_json:
        return show.emit(done)
    show.say(f"{done['model']}: {show.percent(done['search_val']['top1'])} on search-val")
    if done["fold"]:
        before, after = done["fold"]["before"], done["fold"]["after"]
        show.say(
            f"in integers: {show.percent(before['top1'])}, agreement with model {show.percent(before['agreement'])}; "
            f"after training in integers: {show.percent(after['top1'])} and {show.percent(after['agreement'])}"
        )


def _need_supernet(opened: Any) -> None:
    from spos_quant.errors import RunError

    if opened.spec.retrain.init == "inherit" and not opened.supernet_path.exists():
        raise RunError(
            f"{opened.path} has no trained supernet to inherit from; train it with: spos-quant train {opened.path}"
        )
