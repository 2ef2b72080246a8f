"""`python -m sppnet` is `sppnet`."""

from sppnet.cli import main

main()
