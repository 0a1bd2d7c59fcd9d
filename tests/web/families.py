"""How the five families are held to their table: each row of docs/api-families.md is one call or more, in cases.

A case says what is asked and what exactly comes back. It is asked in both spellings of its path. ``shape`` is the
whole answer: a mapping has exactly these keys; a type, or a union of types, is the type of the value; a list of one
shape is a list of such values, a longer one exactly these; a pattern must fit the whole text; a function says
itself; anything else is the value itself.
"""

from __future__ import annotations

import re
import types
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import httpx2

TABLE = Path(__file__).parents[2] / "docs" / "api-families.md"
Before = Callable[[httpx2.AsyncClient], Awaitable[Mapping[str, Any]]]


async def nothing(_: httpx2.AsyncClient) -> Mapping[str, Any]:
    """A case that needs no beginning."""
    return {}


@dataclass(frozen=True)
class Case:
    """One call. What ``before`` gives is put where ``{name}`` stands in the path and in the values of ``ask``."""

    call: str  # as the table says it: POST /users
    name: str
    status: int
    shape: Any
    ask: Mapping[str, Any] = field(default_factory=dict)  # of httpx: json, data, files, params, headers
    path: str = ""  # where the table's own is not what is asked: /getdoc/responsedetails
    before: Before = nothing
    headers: Mapping[str, Any] = field(default_factory=dict)  # that the answer has, each with its shape

    @property
    def id(self) -> str:
        """What the case is called in a test's name."""
        return f"{self.call} - {self.name}"


def both(cases: list[Case]) -> list[tuple[Case, bool]]:
    """Every case in both spellings of its path: as ``pytest.mark.parametrize("case, slash", both(CASES))``."""
    return [(case, slash) for case in cases for slash in (False, True)]


async def check(client: httpx2.AsyncClient, case: Case, slash: bool) -> httpx2.Response:
    """Ask it, and hold the answer to it."""
    known = await case.before(client)
    method, _, said = case.call.partition(" ")
    path = _filled(case.path or said, known).rstrip("/") + ("/" if slash else "")
    answer = await client.request(method, path or "/", **_filled(dict(case.ask), known), follow_redirects=False)
    assert answer.status_code == case.status, answer.text
    is_json = "json" in answer.headers.get("content-type", "")
    value = answer.json() if is_json else answer.text or None
    faults = list(differences(value, _filled(case.shape, known)))
    assert not faults, f"{faults}\n{answer.text}"
    for name, shape in case.headers.items():
        assert not list(differences(answer.headers.get(name), shape)), (name, answer.headers.get(name))
    return answer


def differences(value: Any, shape: Any, at: str = "") -> Any:
    """Where a value is not as its shape says."""
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping) or list(value) != list(shape):
            yield f"{at or 'the answer'}: keys {list(value) if isinstance(value, Mapping) else value}"
            return
        for name, each in shape.items():
            yield from differences(value[name], each, f"{at}.{name}")
    elif isinstance(shape, list):
        wanted = shape * len(value) if isinstance(value, list) and len(shape) == 1 else shape
        if not isinstance(value, list) or len(value) != len(wanted):
            yield f"{at}: {value!r} is no such list"
            return
        for place, (one, each) in enumerate(zip(value, wanted, strict=True)):
            yield from differences(one, each, f"{at}[{place}]")
    elif not _fits(value, shape):
        yield f"{at}: {value!r} is not {shape!r}"


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, re.Pattern):
        return isinstance(value, str) and shape.fullmatch(value) is not None
    if isinstance(shape, types.UnionType):
        return any(_fits(value, each) for each in get_args(shape))
    if shape is types.NoneType:
        return value is None
    if shape is UUID:
        return isinstance(value, str) and str(UUID(value)) == value
    if isinstance(shape, type):
        return isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
    if callable(shape):
        return bool(shape(value))
    return type(value) is type(shape) and value == shape


def rows(family: str) -> list[str]:
    """The calls in that family's table: ``POST /users``, …"""
    text = TABLE.read_text("utf-8")
    part = re.search(rf"^## \d+\. [^\n]*family name: `{family}`.*?(?=^## )", text, re.M | re.S)
    assert part is not None, family
    cells = re.findall(r"^\| ((?:GET|POST|PUT) )?(/[^|]*?) \|", part[0], re.M)
    found = []
    for method, said in cells:
        for path in said.split(", "):
            path = path.partition("?")[0].partition(" (")[0].strip()
            found.append(f"{method.strip() or 'GET'} {path}")
    return found


def _filled(value: Any, known: Mapping[str, Any]) -> Any:
    """The value with what is known put in; a text that is nothing but a name becomes the thing itself."""
    if isinstance(value, str):
        whole = re.fullmatch(r"\{(\w+)\}", value)
        if whole and whole[1] in known:
            return known[whole[1]]
        return re.sub(r"\{(\w+)\}", lambda match: str(known.get(match[1], match[0])), value)
    if isinstance(value, Mapping):
        return {name: _filled(each, known) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, known) for each in value]
    return value
