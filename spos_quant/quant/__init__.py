"""Switchable quantized layers and their static counterparts. The only package that imports Brevitas."""

import logging

# Brevitas looks for a CUDA compiler at import; its warning that there is none does not concern users of a CPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
