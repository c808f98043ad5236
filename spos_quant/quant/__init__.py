"""Switchable quantized layers and their static counterparts. The only package that imports Brevitas."""

import logging

# Brevitas looks for a CUDA compiler when it is imported; that there is none is no news to the user of a CPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
