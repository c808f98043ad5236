"""The report of a run: plain data in, one offline HTML page or CSV out. Neither torch nor Brevitas."""

from spos_quant.report.page import render
from spos_quant.report.text import evaluations_csv, verdict

__all__ = ["evaluations_csv", "render", "verdict"]
