"""Programs that tests run and that no wheel brings: on the path, or where `make setup-test` has put them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

BIN = Path(__file__).resolve().parents[1] / ".tools" / "bin"


def program(name: str) -> str:
    """Where it is."""
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    assert found, f"there is no {name}: `make setup-test` fetches it, or install it"
    return found
