"""The pages: what each Accept gets, the policy, and that everything a page loads is ours and is there."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest

from loquent.web.pages import assets
from loquent.web.pages.home import prefers_html
from loquent.web.pages.shell import TEMPLATES

pytestmark = pytest.mark.anyio

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SWAGGER, REDOC = ("/docs", "/docs/", "/api/v1/docs", "/api/v1/docs/"), ("/api/v1/redoc", "/api/v1/redoc/")
PAGES = ("/", *SWAGGER, *REDOC)
LOADS = {"script": "src", "link": "href", "img": "src", "source": "src", "iframe": "src", "object": "data"}
OURS = sorted(path for path in (*assets.FOLDER.glob("*"), *TEMPLATES.glob("*")) if path.is_file())


class Page(HTMLParser):
    """What a page loads, links to and names, and whatever of script or style stands in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.labelled_by: list[str] = []
        self.inline: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self._within = tag
        if LOADS.get(tag, "-") in said:
            self.loads.append(said[LOADS[tag]])
        if tag == "a":
            self.links.append(said["href"])
        if tag == "style" or (tag == "script" and "src" not in said):
            self.inline.append(tag)
        self.inline += [name for name in said if name.startswith("on") or name == "style"]
        self.ids += [said["id"]] if "id" in said else []
        self.labelled_by += said.get("aria-labelledby", "").split()

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style") and data.strip():
            self.inline.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/plain, */*", "", "image/png"])
async def test_a_program_is_told_that_the_server_works(client: httpx2.AsyncClient, accept: str) -> None:
    answer = await client.get("/", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.content == b'{"message":"Server is Working! ","status":"OK"}'
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["vary"] == "Accept"


async def test_a_browser_gets_the_page(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/", headers=BROWSER)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["vary"] == "Accept"
    assert "<h1>Loquent</h1>" in answer.text


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("application/json;q=0.5, text/html", True),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0", False),
        ("text/html, application/json", False),
        ("text/html;q=none", False),
        ("text/*", False),
    ],
)
def test_html_is_for_who_asks_for_it_by_name_and_likes_it_best(accept: str, is_html: bool) -> None:
    assert prefers_html(accept) is is_html


@pytest.mark.parametrize("path", ["/", *SWAGGER])
async def test_a_page_lets_nothing_in_but_our_own_files(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path, headers=BROWSER)).headers["content-security-policy"] == POLICY


@pytest.mark.parametrize("path", REDOC)
async def test_redoc_is_let_its_own_two_styles_and_nothing_else(client: httpx2.AsyncClient, path: str) -> None:
    policy = (await client.get(path)).headers["content-security-policy"]
    assert re.sub(r"( 'sha256-[\w+/=]+')", "", policy) == POLICY
    assert re.findall(r"[\w-]+ 'self'(?: 'sha256-[\w+/=]+'){2}", policy) == [
        re.search(r"style-src [^;]+", policy)[0]  # type: ignore[index]
    ]


@pytest.mark.parametrize("path", PAGES)
async def test_everything_that_a_page_loads_is_ours_and_is_there(client: httpx2.AsyncClient, path: str) -> None:
    page = Page((await client.get(path, headers=BROWSER)).text)
    assert page.loads
    for each in page.loads:
        assert each.startswith(f"/static/{assets.version()}/")
        answer = await client.get(each)
        assert answer.status_code == 200, each
        suffix = each[each.rindex(".") :]
        assert answer.headers["content-type"].partition(";")[0] == assets.TYPES[suffix]
        assert answer.headers["cache-control"] == assets.FOR_EVER
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_has_no_script_and_no_style_in_itself(client: httpx2.AsyncClient, path: str) -> None:
    page = Page((await client.get(path, headers=BROWSER)).text)
    assert page.inline == []


def test_script_and_style_within_a_page_are_seen() -> None:
    page = Page('<p onclick="x()" style="color: red">a</p><script>x()</script><style>p {}</style>')
    assert page.inline == ["onclick", "style", "script", "x()", "style", "p {}"]


async def test_every_link_of_the_first_page_leads_somewhere(client: httpx2.AsyncClient) -> None:
    page = Page((await client.get("/", headers=BROWSER)).text)
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert (await client.get(link)).status_code == 200, link
    assert {"/docs", "/api/v1/redoc", "/api/v1/openapi.json", "/metrics"} <= set(page.links)


async def test_names_on_the_first_page_are_given_once_and_found(client: httpx2.AsyncClient) -> None:
    page = Page((await client.get("/", headers=BROWSER)).text)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.labelled_by) <= set(page.ids)
    scripts = "".join(path.read_text("utf-8") for path in assets.FOLDER.glob("*.js"))
    wanted = set(re.findall(r"(?:getElementById|copy)\(\"([\w-]+)\"\)", scripts)) - {"docs"}
    assert len(wanted) > 15
    assert wanted <= set(page.ids)


async def test_metrics_are_linked_only_where_they_are_served(serving: Any) -> None:
    async with serving(LOQUENT_METRICS="no") as client:
        assert "/metrics" not in (await client.get("/", headers=BROWSER)).text


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_own_files_name_no_other_place(path: Path) -> None:
    text = path.read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|[\"'(]//|@import", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    assert "| safe" not in text
    assert "localStorage" not in text


@pytest.mark.parametrize("script", sorted(assets.FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_what_a_script_imports_is_there(script: Path) -> None:
    for name in re.findall(r'from "([^"]+)"', script.read_text("utf-8")):
        assert (assets.FOLDER / name).is_file(), name


@pytest.mark.parametrize("path", [*SWAGGER, *REDOC])
async def test_the_documentation_draws_our_document(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    ours = next(each for each in Page(answer.text).loads if each.endswith(".js") and "/vendor/" not in each)
    assert '"/api/v1/openapi.json"' in (await client.get(ours)).text
    assert (await client.get("/api/v1/openapi.json")).json()["openapi"].startswith("3.")


async def test_a_file_under_another_version_is_found_but_not_kept(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/static/0123456789abcdef/home.js")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
    again = await client.get("/static/0123456789abcdef/home.js", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "vendor",
        "vendor/",
        "vendor/README.md",
        "../shell.py",
        "%2e%2e/shell.py",
        "..%2fshell.py",
        "/etc/passwd",
        "home.js%00",
        "HOME.JS",
    ],
)
async def test_nothing_else_is_served_from_the_folder(client: httpx2.AsyncClient, name: str) -> None:
    answer = await client.get(f"/static/{assets.version()}/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/docs", "/api/v1/redoc"])
async def test_a_head_has_the_head_alone(client: httpx2.AsyncClient, path: str) -> None:
    whole = await client.get(path, headers=BROWSER)
    answer = await client.head(path, headers=BROWSER)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == whole.headers["content-type"]


async def test_the_licences_of_what_we_carry_go_with_it(client: httpx2.AsyncClient) -> None:
    vendored = {path.name for path in (assets.FOLDER / "vendor").iterdir()}
    told = (assets.FOLDER / "vendor" / "README.md").read_text("utf-8")
    assert {name for name in vendored if name != "README.md"} <= set(re.findall(r"`([\w.-]+)`", told))
    for name in (each for each in vendored if each.endswith(".LICENSE.txt")):
        assert (await client.get(assets.url(f"vendor/{name}"))).headers["content-type"].startswith("text/plain")


def test_a_page_cannot_name_a_file_that_is_not_there() -> None:
    with pytest.raises(LookupError, match=r"gone\.js"):
        assets.url("gone.js")
