"""`python -m loginonce.cli`, for an interpreter whose scripts are not on the PATH."""

from . import main

main()
