"""``python -m loquent`` is the command line."""

from loquent.cli import app

app()
