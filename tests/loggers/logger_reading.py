"""Reads logs independently of the loggers, as `{step: [values of all points at this step]}`."""

from __future__ import annotations

import csv
import struct
from collections import defaultdict
from pathlib import Path

Points = dict[int, list[float]]


def csv_points(path: Path, metric: str) -> Points:
    points = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row[metric]:
                points[int(row["step"])].append(float(row[metric]))
    return dict(points)


def tensorboard_points(folder: Path, metric: str) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    points = defaultdict(list)
    if metric in events.Tags()["scalars"]:
        for event in events.Scalars(metric):
            points[event.step].append(event.value)
    return dict(points)


def row_points(rows, metric: str) -> Points:
    points = defaultdict(list)
    for step, values in rows:
        if metric in values:
            points[step].append(values[metric])
    return dict(points)


def wandb_rows(path: Path) -> list[tuple[int, dict[str, float]]]:
    """The history in a `.wandb` file: a header of 7 bytes, then the records of a LevelDB log in blocks of 32 KiB."""
    import json

    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts, rows = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            if record.HasField("history"):
                values = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
                rows.append((record.history.step.num, {k: float(v) for k, v in values.items() if k[0] != "_"}))
    return rows
