"""`python -m qmesh`."""

from qmesh.cli import main

main()
