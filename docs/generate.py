"""Writes the pages that are made from the code: the map, the settings, .env.example and the routes.

``python docs/generate.py`` writes them; with ``--check`` it only says which are stale, and fails when one is.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import Field, fields
from fnmatch import fnmatch
from inspect import getdoc
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MADE = "Made by `make docs`; do not edit."


def pages() -> dict[str, str]:
    """Every generated page: its path from the root, and what it should hold now."""
    made = {"docs/settings.md": settings(), ".env.example": env_example(), "docs/routes.md": routes()}
    made["docs/map.md"] = map_of({*files(), *made, "docs/map.md"})
    return made


# --- the map ---------------------------------------------------------------------------------------------------------

ROOMS = (  # what is not a floor, in the order shown; the first pattern that fits
    ("The package itself", "src/loquent/*"),
    ("Tests", "tests/*"),
    ("Bench", "bench/*"),
    ("Documents", "docs/*"),
    ("Around it", "*"),
)

# What a file cannot say of itself in its first line.
SAID = {
    "tests/samples/env/*.env": "The .env file of a project of that family, as such projects have it",
    ".env.example": "Every setting with its default, ready to be copied to .env",
    ".gitignore": "What git leaves out",
    "LICENSE": "The MIT licence",
    "docs/map.md": "This page",
    "docs/routes.md": "The routes",
    "docs/settings.md": "The settings",
    "pyproject.toml": "The package: dependencies, floors, and how the tools are set",
    "requirements/*.in": "What the lock of the same name is resolved from",
    "requirements/*.lock": "Exact versions and hashes, written by `make lock`",
    "deploy/grafana/loquent.json": "The dashboard of Grafana",
    "*.svg": "A picture",
    "*/migrations/script.py.mako": "What a new migration begins as",
    "*/py.typed": "Says that the package carries types",
    "*/static/vendor/*": "Somebody else's file, served unchanged",
}


def files() -> list[str]:
    """Every file that git keeps or would keep, and that is there."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607  (the git on the path)
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def map_of(names: Iterable[str]) -> str:
    """The map: every file under its floor or room, with the first line it says of itself."""
    places = list(_places())
    shown: dict[str, list[str]] = {title: [] for title, _ in places}
    for name in sorted(names):
        title = next(title for title, pattern in places if fnmatch(name, pattern))
        shown[title].append(f"| `{name}` | {_cell(_first_line(name))} |")
    parts = [
        "# The map",
        f"Every file and what lives in it, from the top floor down. A floor imports only from those below it. {MADE}",
    ]
    for title, rows in shown.items():
        if rows:
            parts.append(f"## {title}\n\n| file | what lives there |\n| --- | --- |\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _places() -> Iterator[tuple[str, str]]:
    """Titles and patterns; the floors are those that import-linter keeps, so there is one list of them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    for number, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        modules = re.split(r"\s*[|:]\s*", layer)
        title = f"Floor {number}: {', '.join(modules)}"
        for module in modules:
            yield title, f"src/loquent/{module}/*"
            yield title, f"src/loquent/{module}.py"
    yield from ROOMS


def _first_line(name: str) -> str:
    """What a file says of itself: a docstring, a heading, or the first comment."""
    for pattern, line in SAID.items():
        if fnmatch(name, pattern):
            return line
    text = (ROOT / name).read_text(encoding="utf-8", errors="replace").removeprefix("\ufeff")
    if name.endswith(".py"):
        said = (ast.get_docstring(ast.parse(_beginning(text))) or "").partition("\n")[0]
    else:
        first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#!")), "")
        title = re.search(r"{% block title %}(.+?){% endblock %}", text)
        said = _bare(first) or (f"The page “{title[1]}”" if title else "A template" * name.endswith(".html"))
    if not said:
        raise SystemExit(f"{name} does not say what it is: begin it with a docstring, a heading or a comment.")
    return said


def _beginning(text: str) -> str:
    """A program's first statement, where that is a text: reading the whole of each takes seconds."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.STRING):
            break
        if token.type == tokenize.STRING:
            return "".join(text.splitlines(keepends=True)[: token.end[0]])
    return ""


def _bare(line: str) -> str:
    """A comment or heading line without its marks; empty where the line is neither."""
    mark = r"#+|//+|/\*+|<!--|\{#-?|--|;|\"\"\"|%#|##"
    found = re.match(rf"\s*(?:{mark})\s*(.*?)\s*(?:\*+/|-->|-?#\}}|\"\"\")?\s*$", line)
    return found[1] if found else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# --- the settings ----------------------------------------------------------------------------------------------------


SETTINGS = f"""\
Each is read from the environment, then from a file `.env` in the working directory. An empty value is as none.
A value that cannot be used stops the start with one line: which variable, what it holds, what it takes.
Where a setting has other names, the first that holds something counts. {MADE}"""


def settings() -> str:
    """docs/settings.md: each setting by group, with what it takes."""
    parts = ["# The settings", SETTINGS]
    for group, members in _groups():
        rows = (
            f"| {_names(each)} | {_cell(each.metadata['about'])} | {_cell(each.metadata['takes'])} | {_default(each)} |"
            for each in members
        )
        head = "| setting | what it does | it takes | default |\n| --- | --- | --- | --- |\n"
        parts.append(f"## {group}\n\n{head}" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def env_example() -> str:
    """.env.example: each setting with its default, commented out."""
    parts = ["# Copy this file to .env and uncomment what you change; docs/settings.md says more. Made by `make docs`."]
    for group, members in _groups():
        lines = [f"# --- {group}"]
        for each in members:
            shown, value = each.metadata["shown_default"], _written(each)
            lines.append(f"# {each.metadata['about']}" + (f" Default: {shown}." if shown and not value else ""))
            lines.append(f"#{each.metadata['env']}={value}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _groups() -> Iterator[tuple[str, list[Field[Any]]]]:
    from loquent.settings import Settings

    for group, members in groupby(fields(Settings), key=lambda each: each.metadata["group"]):
        yield group, list(members)


def _names(setting: Field[Any]) -> str:
    aliases = " ".join(f"`{alias}`" for alias in setting.metadata["aliases"])
    return f"`{setting.metadata['env']}`" + (f"<br>also {aliases}" if aliases else "")


def _default(setting: Field[Any]) -> str:
    if written := _written(setting):
        return f"`{written}`"
    return _cell(setting.metadata["shown_default"] or "none")


def _written(setting: Field[Any]) -> str:
    """The default as one would write it in the environment; empty where it is worked out or there is none."""
    value, shown = setting.default, setting.metadata["shown_default"]
    if shown:
        try:
            return str(shown) if setting.metadata["kind"].read(shown) == value else ""
        except ValueError:
            return ""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- the routes ------------------------------------------------------------------------------------------------------


SURFACES = {
    "loquent.web.api": "Our own API",
    "loquent.web.compat": "APIs of others, spoken exactly",
    "loquent.web.pages": "Pages",
    "": "The server itself",
}
NAMED = {"openapi": "The API's own document (OpenAPI)"}  # routes that the framework makes
ROUTES = f"""\
Every method and path that the server answers. *Known* callers are users, and anonymous callers where those are allowed
(`LOQUENT_ANONYMOUS`); what a path then shows is theirs alone. *Administrators* are users that the
operator has made so (`loquent users promote`). Every path
answers with a slash at its end, too. {MADE}"""


def routes() -> str:
    """docs/routes.md: every method and path, who may call it, and what it does."""
    from fastapi.routing import iter_route_contexts

    from loquent.web.app import make_routes

    listed: dict[str, dict[tuple[str, str], str]] = {title: {} for title in SURFACES.values()}
    found = iter_route_contexts(make_routes().routes)
    for route in sorted(found, key=lambda route: str(route.path).rstrip("/")):
        title = next(title for module, title in SURFACES.items() if _module(route.endpoint).startswith(module))
        methods = " ".join(sorted((route.methods or {"GET"}) - {"HEAD"}))
        shown = str(route.path).rstrip("/") or "/"
        row = f"| {methods} | `{shown}` | {_who(route)} | {_cell(_what(route))} |"
        if _summary(route) or (shown, methods) not in listed[title]:
            listed[title][shown, methods] = row
    head = "| method | path | who may call | what it does |\n| --- | --- | --- | --- |\n"
    parts = ["# The routes", ROUTES]
    parts += [f"## {title}\n\n{head}" + "\n".join(rows.values()) for title, rows in listed.items() if rows]
    return "\n\n".join(parts) + "\n"


def _module(endpoint: Any) -> str:
    """Where an endpoint is written; a direct route's is where its handler is."""
    return getattr(getattr(endpoint, "handler", endpoint), "__module__", None) or ""


def _who(route: Any) -> str:
    """Who may call, from what the route is given; the direct ones ask for themselves, every one."""
    from loquent.web import deps
    from loquent.web.direct import Direct

    given = set(_given(getattr(route, "dependant", None)))
    asks = isinstance(route.endpoint, Direct) or not given.isdisjoint(deps.KNOWN)
    return "administrators" if deps.Admin.__metadata__[0].dependency in given else "known" if asks else "anybody"


def _given(dependant: Any) -> Iterator[Any]:
    """All that a route depends on, however deep."""
    for each in dependant.dependencies if dependant else ():
        yield each.call
        yield from _given(each)


def _what(route: Any) -> str:
    """The summary, or the first line that the handler says of itself."""
    return _summary(route) or (getdoc(route.endpoint) or NAMED.get(route.name, route.name)).partition("\n")[0]


def _summary(route: Any) -> str:
    return getattr(route, "summary", None) or getattr(route.endpoint, "summary", None) or ""


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check say which are stale; returns the exit status."""
    stale = [name for name, text in pages().items() if _held(name) != text]
    if "--check" in arguments:
        for name in stale:
            print(f"{name} is stale: run `make docs`.")
        return 1 if stale else 0
    for name, text in pages().items():
        if name in stale:
            (ROOT / name).write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 0


def _held(name: str) -> str:
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
