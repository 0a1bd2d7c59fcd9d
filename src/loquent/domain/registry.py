"""The registry: rows of models that an administrator added while the program runs, beside those of the settings."""

from __future__ import annotations

from dataclasses import dataclass

from loquent.domain.clock import Moment
from loquent.domain.generations import Json


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A row as it was given: the fields of a Model, as a file of rows has them."""

    id: str
    version: int
    name: str
    row: Json
    created_at: Moment
    updated_at: Moment
    created_by: str  # the id of the administrator
