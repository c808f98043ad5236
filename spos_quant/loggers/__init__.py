"""Where training curves and search scores go while a run is being made. To add a logger: one file.

Importing this loads no torch and no logging service; each logger imports its own when it is opened.
"""

from spos_quant.loggers.base import Logger, LogTarget, loggers
from spos_quant.loggers.open import Loggers, open_loggers

__all__ = ["LogTarget", "Logger", "Loggers", "loggers", "open_loggers"]
