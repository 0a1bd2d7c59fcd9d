"""The marks of the doctor: how a part stands, and in which colour that is shown."""

from __future__ import annotations

OK, DOUBT, BAD = "✓", "!", "✗"
COLOURS = {OK: "green", DOUBT: "yellow", BAD: "red"}
