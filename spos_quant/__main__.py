"""`python -m spos_quant`."""

from spos_quant.cli import main

if __name__ == "__main__":  # worker processes import this module under another name
    main()
