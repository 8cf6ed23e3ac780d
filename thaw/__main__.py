"""`python -m thaw`: the same commands as `thaw`."""

from thaw.cli import app, run_command

run_command(app)
