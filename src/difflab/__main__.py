"""`python -m difflab`."""

from difflab.cli import main

main()
