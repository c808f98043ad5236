"""`spos-quant plan`: estimated time of a job on several numbers of devices."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.errors import ConfigError


@app.command()
def plan(
    space: o.SpaceArg,
    images: Annotated[int, typer.Option("--data-size", metavar="N", help="Training images of the data set.")],
    gpus: Annotated[str, typer.Option("--gpus", metavar="LIST", help="Numbers of devices, comma-separated.")] = "1",
    bandwidth: Annotated[
        float, typer.Option("--bandwidth", metavar="GB/S", help="Bandwidth of the gradient all-reduce, per rank.")
    ] = 10.0,
    tflops: Annotated[
        float | None,
        typer.Option("--device-tflops", metavar="T", help="Training speed of a device [measured on this machine]."),
    ] = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Estimates time and memory of the main job on many devices from a few measured steps and stated assumptions."""
    o.check_device(device)
    counts = _counts(gpus)
    if not bandwidth > 0 or (tflops is not None and not tflops > 0):
        raise ConfigError("--bandwidth and --device-tflops: expected a number above 0")
    from spos_quant.stages.open_run import spec_with_settings
    from spos_quant.stages.plan import Assumed
    from spos_quant.stages.plan import plan as planned

    assumed = Assumed(bandwidth * 1e9, None if tflops is None else tflops * 1e12)
    result = planned(
        spec_with_settings(space, assignments or ()), images=images, gpus=counts, assumed=assumed, device=device
    )
    if as_json:
        return show.emit(result)
    columns = ("devices", "supernet", "search", "retrain", "all", "device days", "exchange", "memory each")
    show.table(columns, [_row(row) for row in result["rows"]])
    for text in result["assumptions"]:
        show.say(f"- {text}")


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--gpus {text!r}: expected numbers between commas, such as 1,8,64") from None


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    seconds, step = row["seconds"], row["step"]
    share = step["communication_seconds"] / (step["compute_seconds"] + step["communication_seconds"])
    times = [_time(seconds[name]) for name in ("supernet", "search", "retrain", "total")]
    days = f"{row['gpu_days']['total']:.3g}"
    return (f"{row['gpus']:,}", *times, days, show.percent(share), f"{row['memory_bytes'] / 1e9:.3g} GB")


def _time(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
