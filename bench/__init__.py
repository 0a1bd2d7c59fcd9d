"""Measures Loquent side by side with what it is compared to; ``python -m bench``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the servers that tests start serve here too
