"""The commands: what they take, which stage does it, how its result is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.opening import Opening
from spos_quant.cost.units import human
from spos_quant.errors import ConfigError

app = typer.Typer(
    name="spos-quant",
    help="Finds and makes low-bit networks: searches operator x width x bits in one supernet, retrains, exports.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def run(
    target: o.TargetArg,
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    bitops: o.Bitops = None,
    macs: o.Macs = None,
    params: o.Params = None,
    weight_bytes: o.WeightBytes = None,
    latency: o.Latency = None,
    max_drop: o.MaxDrop = None,
    searcher: o.SearcherName = "evolution",
    workers: o.Workers = 0,
    ray: o.Ray = None,
    timeout: o.Timeout = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """The main job, all stages: train, search, retrain, evaluate, export, report."""
    budgets = o.budget_options(bitops, macs, params, weight_bytes, latency)
    spec = Opening(target, out, data, seed, assignments)
    requests = spec.requests(budgets, searcher=searcher, max_drop=max_drop, timeout=timeout, device=device, ray=ray)
    if len(requests) > 1:
        raise ConfigError(
            "`run` takes one budget; repeat it in: spos-quant search RUN --bitops-budget A --bitops-budget B"
        )
    if dry_run:
        return spec.estimate(requests, as_json, workers=workers)
    from spos_quant.stages.pipeline import run_all

    with spec.open() as opened:
        result = run_all(opened, requests[0], device=device, show=True, workers=workers, ray=ray)
    for name in result["skipped"]:
        show.remark(f"{name}: finished before, not made again")
    _ended_early(result["results"])
    if as_json:
        return show.emit(result)
    show.models(result["rows"])
    show.say(f"bit configuration  {result['results'][0]['bits']}")
    show.say(f"report             {result['report']}")


@app.command()
def train(
    target: o.TargetArg,
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Trains the supernet into a run directory."""
    opening = Opening(target, out, data, seed, assignments)
    o.check_device(device)
    if dry_run:
        return opening.estimate([], as_json)
    from spos_quant.stages.train import train_supernet

    with opening.open() as opened:
        result = {"run": str(opened.path), **train_supernet(opened, device=device, show=True)}
    if result["skipped"]:
        show.remark("supernet: finished before, not made again")
    if as_json:
        return show.emit(result)
    paths = f"paths of sampler {opened.spec.train.path_sampler}"
    show.say(f"{result['supernet']}: {result['epoch']:.6g} epochs, loss {result['loss']:.4f} along {paths}")


@app.command()
def search(
    target: o.TargetArg,
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    bitops: o.Bitops = None,
    macs: o.Macs = None,
    params: o.Params = None,
    weight_bytes: o.WeightBytes = None,
    latency: o.Latency = None,
    max_drop: o.MaxDrop = None,
    searcher: o.SearcherName = "evolution",
    workers: o.Workers = 0,
    ray: o.Ray = None,
    timeout: o.Timeout = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Searches under a budget, which may be repeated; trains the supernet first if the run has none."""
    budgets = o.budget_options(bitops, macs, params, weight_bytes, latency)
    opening = Opening(target, out, data, seed, assignments)
    requests = opening.requests(budgets, searcher=searcher, max_drop=max_drop, timeout=timeout, device=device, ray=ray)
    if dry_run:
        return opening.estimate(requests, as_json, workers=workers)
    from spos_quant.stages.search import search_run
    from spos_quant.stages.train import train_supernet

    with opening.open() as opened:
        train_supernet(opened, device=device, show=True)
        results = search_run(opened, requests, device=device, show=True, workers=workers, ray=ray)
    for result in results:
        if result["skipped"]:
            show.remark(f"{result['key']}: finished before, not made again")
    _ended_early(results)
    if as_json:
        return show.emit({"run": str(opened.path), "results": results})
    timed = any(r.get("latency") for r in results)
    rows = []
    for r in results:
        took = [show.time(r.get("latency"))] if timed else []
        rows.append(
            (r["key"], show.percent(r["score"]), show.count(r["bitops"]), *took, str(r["evaluations"]), r["bits"])
        )
    columns = ("top-1 in the supernet", "BitOps", *(["latency"] if timed else []), "evaluations", "bit configuration")
    show.table(("result", *columns), rows)


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
    """Quantization-aware training of the found subnet, or of any bit configuration."""
    o.check_device(device)
    from spos_quant.stages.plan import Options, plan_existing
    from spos_quant.stages.retrain import given_result, retrain_result

    if bits is not None and result_key is not None:
        raise ConfigError("give either --bits or --result, not both")
    with plan_existing(run_dir, Options(assignments=tuple(assignments or ()))).open() as opened:
        _need_supernet(opened)
        result = opened.pick(result_key) if bits is None else given_result(opened, bits)
        done = retrain_result(result, device=device, show=True)
    if done["skipped"]:
        show.remark(f"{result.key}: finished before, not made again")
    if as_json:
        return show.emit(done)
    show.say(f"{done['model']}: {show.percent(done['search_val']['top1'])} on search-val")
    if done["fold"]:
        before, after = done["fold"]["before"], done["fold"]["after"]
        show.say(
            f"in integers: {show.percent(before['top1'])}, labels as the model on {show.percent(before['agreement'])}; "
            f"after training in them {show.percent(after['top1'])} and {show.percent(after['agreement'])}"
        )


@app.command()
def evaluate(
    run_dir: o.RunArg,
    split: Annotated[str, typer.Option("--split", help="test or search-val.")] = "test",
    result_key: o.ResultKey = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Accuracy of the retrained model."""
    o.check_device(device)
    from spos_quant.stages.plan import plan_existing

    plan = plan_existing(run_dir)
    picked = plan.run.pick(result_key)
    picked.need_model()
    from spos_quant.stages.evaluate import evaluate_result

    with plan.open():
        result = evaluate_result(picked, split, device=device, show=True)
    if as_json:
        return show.emit(result)
    show.say(
        f"{result['key']}: top-1 {show.percent(result['top1'])}, loss {result['loss']:.4f} "
        f"on {result['n']:,} images of {split}"
    )


@app.command()
def export(
    run_dir: o.RunArg,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="onnx, onnx-qcdq, onnx-packed, onnx-int8, integers, qonnx [by what the model is]."
        ),
    ] = None,
    c_header: Annotated[
        bool, typer.Option("--c-header", help="Beside `integers`, the same numbers as a C header.")
    ] = False,
    result_key: o.ResultKey = None,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Writes the retrained model as a file and checks that the file answers as the model does."""
    if c_header and form != "integers":
        raise ConfigError("--c-header goes with --format integers")
    from spos_quant.stages.plan import plan_existing

    plan = plan_existing(run_dir)
    picked = plan.run.pick(result_key)
    picked.need_model()
    from spos_quant.stages.evaluate import export_result, natural_format, write_header

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


@app.command()
def verify(
    run_dir: o.RunArg, result_key: o.ResultKey = None, as_json: o.Json = False, verbose: o.Verbose = False
) -> None:
    """Measures every exported file from outside: accuracy, agreement, bytes, BitOps, budget kept."""
    from spos_quant.stages.plan import open_existing

    picked = open_existing(run_dir).pick(result_key)
    picked.need_model()
    from spos_quant.stages.verify import verify_result

    result = verify_result(picked, show=True)
    if as_json:
        show.emit(result)
    else:
        show.verified(result)
    if not result["ok"]:
        show.remark("a file differs from the model or breaks the budget")
        raise typer.Exit(1)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A file that `export` wrote.")],
    images: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Pictures to classify.")] = None,
    data: o.Data = None,
    split: Annotated[str | None, typer.Option("--split", help="test, search-val or train [test].")] = None,
    seed: o.Seed = None,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Answers of an exported file from onnxruntime alone: accuracy on a data set, or the classes of pictures."""
    from spos_quant.stages.predict import predict_images, predict_split

    if bool(images) == (data is not None):
        raise ConfigError("give either --data D or pictures: spos-quant predict MODEL.onnx IMAGE...")
    if data is None and (split is not None or seed is not None):
        raise ConfigError("--split and --seed choose images of a data set; leave them away with pictures")
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


@app.command()
def cost(
    space: o.SpaceArg,
    uniform: Annotated[
        str | None, typer.Option("--uniform", metavar="w4a4", help="The backbone at uniform bits.")
    ] = None,
    bits: Annotated[
        str | None, typer.Option("--bits", metavar="BITS", help="A bit configuration file, or w4a4.")
    ] = None,
    arch: Annotated[str | None, typer.Option("--arch", metavar="0,3,1", help="Candidate indices.")] = None,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Cost of an architecture, layer by layer, or of the space: cheapest, dearest, number of architectures."""
    from spos_quant.stages.cost import architecture_cost, space_cost

    loaded = _space(space)
    if uniform is None and bits is None and arch is None:
        result = space_cost(loaded)
        if as_json:
            return show.emit(result)
        show.say(f"{result['space']}: {result['size']:,} architectures")
        return show.table(
            ("metric", "cheapest", "dearest"),
            [(m, _exact(result["cheapest"][m]), _exact(result["dearest"][m])) for m in result["cheapest"]],
        )
    result = architecture_cost(loaded, uniform=uniform, bits=bits, arch=arch)
    return show.emit(result) if as_json else show.layers(result)


@app.command()
def spaces(as_json: o.Json = False, verbose: o.Verbose = False) -> None:
    """The built-in search spaces."""
    from spos_quant.stages.spaces import all_spaces

    found = all_spaces()
    if as_json:
        return show.emit(found)
    rows = []
    for item in found:
        metric = "macs" if item["cheapest"]["bitops"] is None else "bitops"
        low, high = item["cheapest"][metric], item["dearest"][metric]
        unit = "MACs" if metric == "macs" else "BitOps"
        size = f"{item['size']:,}" if item["size"] < 10**21 else f"{item['size']:.3g}"
        rows.append((item["name"], item["backbone"], size, f"{human(low)} to {human(high)} {unit}"))
    show.table(("space", "backbone", "architectures", "cost"), rows)
    show.say("sizes with e+ are rounded: --json, and cost SPACE, print every digit")


@app.command()
def report(run_dir: o.RunArg, as_json: o.Json = False, verbose: o.Verbose = False) -> None:
    """One HTML page that opens without a network, and the same figures as JSON and CSV."""
    from spos_quant.stages.plan import open_existing
    from spos_quant.stages.report import write_report

    result = write_report(open_existing(run_dir))
    return show.emit(result) if as_json else show.say(result["path"])


def _ended_early(results: list[dict[str, Any]]) -> None:
    for result in results:
        if not result["complete"]:
            show.remark(f"{result['key']}: the time limit ended the search early; repeat the command to go on")


def _need_supernet(opened: Any) -> None:
    from spos_quant.errors import RunError

    if opened.spec.retrain.init == "inherit" and not opened.supernet_path.exists():
        raise RunError(
            f"{opened.path} has no trained supernet to inherit from; train it with: spos-quant train {opened.path}"
        )


def _space(text: str) -> Any:
    """A search space, or that of a run directory."""
    if Path(text).is_dir():
        from spos_quant.stages.plan import open_existing

        return open_existing(text).space
    from spos_quant.backbones.build import load_space

    return load_space(text)


def _exact(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


from spos_quant.cli import baselines as baselines  # noqa: E402 - their commands join those above
from spos_quant.cli import comparing as comparing  # noqa: E402
from spos_quant.cli import latency as latency  # noqa: E402
from spos_quant.cli import scale as scale  # noqa: E402
