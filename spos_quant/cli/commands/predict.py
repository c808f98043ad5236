"""`spos-quant predict`: predictions of an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.errors import ConfigError


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A file that `export` wrote.")],
    images: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Images to classify.")] = None,
    data: o.Data = None,
    split: Annotated[str | None, typer.Option("--split", help="test, search-val or train [test].")] = None,
    seed: o.Seed = None,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Runs an exported file in onnxruntime: its accuracy on a data set, or the classes of images."""
    from spos_quant.stages.predict import predict_images, predict_split

    if bool(images) == (data is not None):
        raise ConfigError("give either --data D or images: spos-quant predict MODEL.onnx IMAGE...")
    if data is None and (split is not None or seed is not None):
        raise ConfigError("--split and --seed choose images of a data set; omit them with images")
    if data is not None:
        split = split or "test"
        result = predict_split(model, data, split, seed or 0)
        text = [f"top-1 {show.percent(result['top1'])}, loss {result['loss']:.4f} on {result['n']:,} images of {split}"]
    else:
        result = predict_images(model, images or [])
        text = [f"{p['image']}: {p['class']} ({show.percent(p['probability'])})" for p in result["predictions"]]
    if as_json:
        return show.emit(result)
    for line in text:
        show.say(line)
