"""`python -m thaw`: the same commands as `thaw`."""

from thaw.cli import main

main()
