from __future__ import annotations

import csv
import io

import report_sample as sample

from spos_quant.report import evaluations_csv

HEAD = "architecture,generation,cost,score,loss,on_front,searches\n"


def test_every_evaluation_is_a_row_with_its_exact_values() -> None:
    data = sample.run()
    rows = list(csv.DictReader(io.StringIO(evaluations_csv(data))))
    assert len(rows) == 367 == len(data["evaluations"])
    for i, (row, item) in enumerate(zip(rows, data["evaluations"], strict=True)):
        assert row["architecture"] == item["architecture"]
        assert row["generation"] == ("" if item["generation"] is None else str(item["generation"]))
        assert int(row["cost"]) == item["cost"]
        assert float(row["score"]) == item["score"]
        assert float(row["loss"]) == item["loss"]
        assert row["on_front"] == str(int(i in data["front"]))
        assert row["searches"].split() == item["searches"]


def test_what_is_not_known_is_empty() -> None:
    item = {"architecture": "0,1", "describe": {}, "generation": None, "cost": 7, "score": 0.5, "loss": None}
    data = {"evaluations": [{**item, "searches": ["a", "b"]}], "front": [0]}
    assert evaluations_csv(data) == f'{HEAD}"0,1",,7,0.5,,1,a b\n'


def test_no_evaluations_leave_the_head() -> None:
    assert evaluations_csv(sample.trained_only()) == HEAD
