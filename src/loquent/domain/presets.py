"""A preset: parameters that a user has set once, for all that they ask on one surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loquent.domain.fixed import fixed
from loquent.domain.principals import Principal


@fixed
class Preset:
    """The parameters of one owner on one surface; its id is made of these, so that it is unique by itself."""

    id: str
    version: int
    tenant: str
    owner: str
    surface: str
    parameters: Mapping[str, Any]


def preset_id(who: Principal, surface: str) -> str:
    """The id of that owner's preset there."""
    return f"pre_{surface}/{who.tenant}/{who.owner}"
