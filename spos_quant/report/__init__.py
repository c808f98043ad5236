"""The report of a run: plain data in, one offline HTML page or CSV out. Neither torch nor Brevitas.

`data` is the mapping that `report.json` holds (`"format": "spos-quant/report/1"`). Lists may be empty and optional
values null: a run that has only trained so far has a page too, which says what is missing and which command makes it.
"""

from spos_quant.report.bench import bench_csv
from spos_quant.report.evaluations import evaluations_csv, front_csv
from spos_quant.report.page import render
from spos_quant.report.verdict import verdict

__all__ = ["bench_csv", "evaluations_csv", "front_csv", "render", "verdict"]
