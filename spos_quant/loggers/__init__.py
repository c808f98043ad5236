"""Loggers for training curves and search scores. To add a logger, write one file.

Importing this package imports neither torch nor a logging service. A logger imports its package when it is opened.
"""

from spos_quant.loggers.base import Logger, LogTarget, loggers
from spos_quant.loggers.open import Loggers, open_loggers

__all__ = ["LogTarget", "Logger", "Loggers", "loggers", "open_loggers"]
