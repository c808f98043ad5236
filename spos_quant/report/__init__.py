"""The report of a run: renders plain data as one offline HTML page or as CSV. Imports neither torch nor Brevitas.

`data` is the content of `report.json` (`"format": "spos-quant/report/1"`). Lists may be empty and optional values null:
the page of an unfinished run shows what is missing and which command makes it.
"""

from spos_quant.report.bench import bench_csv
from spos_quant.report.evaluations import evaluations_csv, front_csv
from spos_quant.report.page import render
from spos_quant.report.verdict import verdict

__all__ = ["bench_csv", "evaluations_csv", "front_csv", "render", "verdict"]
