"""`python -m spos_quant`."""

from spos_quant.cli import main

main()
