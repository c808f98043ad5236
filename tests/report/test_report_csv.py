from __future__ import annotations

import csv
import io

import report_sample as sample

from spos_quant.report import bench_csv, evaluations_csv, front_csv

HEAD = "architecture,generation,cost,score,loss,on_front,searches,bitops,macs,params,weight_bytes,latency\n"


def columns(data):
    """The evaluations of a report by column."""
    items = data["evaluations"]
    names = [name for name in HEAD.strip().split(",") if items and name in items[0]]
    found = {name: [item[name] for item in items] for name in names}
    found["on_front"] = [int(i in data["front"]) for i in range(len(items))]
    found["searches"] = [" ".join(item["searches"]) for item in items]
    for name in items[0].get("costs") or () if items else ():
        found[name] = [item["costs"][name] for item in items]
    return found


def test_every_evaluation_is_a_row_with_its_exact_values() -> None:
    data = sample.run()
    rows = list(csv.DictReader(io.StringIO(evaluations_csv(columns(data)))))
    assert len(rows) == 367 == len(data["evaluations"])
    for i, (row, item) in enumerate(zip(rows, data["evaluations"], strict=True)):
        assert row["architecture"] == item["architecture"]
        assert row["generation"] == ("" if item["generation"] is None else str(item["generation"]))
        assert int(row["cost"]) == item["cost"]
        assert float(row["score"]) == item["score"]
        assert float(row["loss"]) == item["loss"]
        assert row["on_front"] == str(int(i in data["front"]))
        assert row["searches"].split() == item["searches"]


def test_unknown_values_are_empty() -> None:
    item = {"architecture": "0,1", "describe": {}, "generation": None, "cost": 7, "score": 0.5, "loss": None}
    data = {"evaluations": [{**item, "searches": ["a", "b"], "costs": {"macs": 7, "params": 3}}], "front": [0]}
    assert evaluations_csv(columns(data)) == f'{HEAD}"0,1",,7,0.5,,1,a b,,7,3,,\n'


def test_without_evaluations_only_the_header_is_written() -> None:
    assert evaluations_csv({}) == evaluations_csv(columns(sample.trained_only())) == HEAD


def test_every_front_is_sorted_by_increasing_cost() -> None:
    items = [
        {"architecture": str(i), "score": i / 4, "loss": None, "searches": ["a"], "costs": {"macs": 9 - i, "params": i}}
        for i in range(3)
    ]
    fronts = {"macs": {"front": [2]}, "params": {"front": [0, 1, 2]}}
    assert front_csv({"evaluations": items, "fronts": fronts}).splitlines() == [
        "metric,cost,score,loss,architecture,searches",
        "macs,7,0.5,,2,a",
        "params,0,0.0,,0,a",
        "params,1,0.25,,1,a",
        "params,2,0.5,,2,a",
    ]
    assert front_csv(sample.trained_only()).count("\n") == 1


def test_the_bench_as_a_table() -> None:
    rows = list(csv.DictReader(io.StringIO(bench_csv(sample.compared(seeds=1)["bench"]))))
    assert [row["bits"] for row in rows] == ["w2a2", "best", "float"]
    assert (rows[2]["bitops"], rows[2]["top1_std"], rows[2]["latency_ms"]) == ("", "", "0.3125")
