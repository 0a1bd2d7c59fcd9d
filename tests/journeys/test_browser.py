"""The first page in a real browser, on a real server: ask, stop, summarise a file, look back, log in, read the docs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, Route, async_playwright, expect

from serving import served

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.browser, pytest.mark.xdist_group("browser")]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
)
PATIENCE = 30_000  # milliseconds that anything may take to show; a slow machine is no fault
MODELS = """
[[model]]
name = "echo"
engine = "echo"
id = "echo"

[[model]]
name = "extractive"
engine = "extractive"
id = "extractive"
abilities = ["summary"]
"""
LIGHTHOUSE = """The old lighthouse stood on the northern cliff for two hundred years. It guided ships through the narrow
strait every night. In 1887 the keeper, Martha Quill, counted 4312 ships in one year. Birds nested under its gallery.
The lamp burned whale oil until 1902. Then the harbour board replaced the oil lamp with an electric one. Ships could
see the new lamp from thirty miles away. Today the lighthouse is a museum, and the strait is still busy. Visitors climb
the stairs to see the lamp and the strait. The harbour board keeps the lamp burning for the ships of the strait.
"""


def chromium() -> str:
    """The browser's path; without one these tests fail, so that nobody believes them to have run."""
    if os.environ.get("BROWSER") == "none":
        pytest.skip("BROWSER=none: the page is not tried in a browser")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(
            "no Chromium is on the path. Install one (Debian, Ubuntu: apt-get install -y --no-install-recommends "
            "chromium), or leave the browser out with BROWSER=none",
            pytrace=False,
        )
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    chromium()
    folder = tmp_path_factory.mktemp("server")
    (folder / "models.toml").write_text(MODELS, "utf-8")
    with served(folder) as found:
        yield found.url


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        await started.close()


@asynccontextmanager
async def visit(browser: Browser, url: str, *, width: int = 1200, expected: str = "^$") -> AsyncIterator[Page]:
    """A page of a new visitor; at the end, nothing may have gone wrong in it but what was expected."""
    context = await browser.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(PATIENCE)
    faults: list[str] = []
    try:
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        await page.goto(url)
        yield page
    finally:
        await context.close()
    assert [fault for fault in faults if not re.search(expected, fault)] == []


async def ask(page: Page, prompt: str) -> Locator:
    """Type a prompt and press Ask; gives the answer's place."""
    expect.set_options(timeout=PATIENCE)
    await page.get_by_label("Prompt").fill(prompt)
    await page.get_by_role("button", name="Ask").click()
    return page.get_by_role("region", name="Answer")


async def drop(page: Page, name: str, text: str) -> Locator:
    """Drop a file on the zone; gives its card."""
    expect.set_options(timeout=PATIENCE)
    await expect(page.locator("#file").get_by_label("Model")).to_be_enabled()  # a fieldset always passes for that
    made = "([name, text]) => { const d = new DataTransfer(); d.items.add(new File([text], name)); return d; }"
    files = await page.evaluate_handle(made, [name, text])
    await page.dispatch_event("#drop", "drop", {"dataTransfer": files})
    return page.get_by_role("article").filter(has=page.get_by_role("heading", name=name))


async def test_an_answer_comes_word_by_word_and_is_counted_at_its_end(browser: Browser, server: str) -> None:
    async with visit(browser, server) as page:
        answer = await ask(page, "Rain falls on the quiet harbour [slow 0.02] [words 60]")
        await expect(answer).to_contain_text("Rain falls on")
        await expect(page.locator("#ask-status")).to_contain_text("60 tokens in")
        await expect(page.locator("#ask-status")).to_contain_text("echo")
        await expect(answer).to_have_attribute("aria-busy", "false")
        assert (await answer.inner_text()).split() == (["Rain", "falls", "on", "the", "quiet", "harbour"] * 10)


async def test_stop_ends_an_answer_in_its_midst_and_keeps_what_was_said(browser: Browser, server: str) -> None:
    async with visit(browser, server) as page:
        answer = await ask(page, "One two three [slow 0.05] [words 2000]")
        await expect(answer).to_have_text(re.compile(r"^One two"))
        few = len(await answer.inner_text())
        await expect(answer).to_have_text(re.compile(rf"^.{{{few + 20},}}$", re.DOTALL))
        await expect(answer).to_have_attribute("aria-busy", "true")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#ask-status")).to_have_text("Stopped.")
        await expect(answer).to_have_attribute("aria-busy", "false")
        said = await answer.inner_text()
        assert len(said.split()) < 2000
        row = page.locator("#history li").first
        await expect(row).to_contain_text("cancelled")
        await row.locator("summary").click()
        await expect(row.locator(".output")).to_contain_text(said[: few + 20])
        await expect(page.get_by_role("button", name="Ask")).to_be_enabled()


async def test_markup_in_a_prompt_and_in_an_answer_is_text(browser: Browser, server: str) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    async with visit(browser, server) as page:
        page.on("dialog", lambda dialog: pytest.fail(f"the page ran {dialog.message}"))
        answer = await ask(page, evil)
        await expect(answer).to_have_text(evil)
        await expect(page.locator("#history li").first.locator(".preview")).to_have_text(evil)
        card = await drop(page, f"{evil}.txt", f"{evil} is what the keeper wrote. {LIGHTHOUSE}")
        await expect(card.get_by_role("listitem").first).to_be_visible()
        await expect(page.locator("main img, main script")).to_have_count(0)


async def test_a_dropped_file_is_summarised_by_its_own_sentences(browser: Browser, server: str) -> None:
    text = " ".join(LIGHTHOUSE.split())
    async with visit(browser, server) as page:
        card = await drop(page, "lighthouse.txt", text)
        sentences = card.locator(".sentences li")
        await expect(sentences.first).to_be_visible()
        shown = await sentences.all_inner_texts()
        assert len(shown) > 1
        assert all(each in text for each in shown)
        await expect(card).to_contain_text("extractive")
        await expect(page.locator("#history li").first).to_contain_text("summary")


async def test_a_long_file_shows_how_far_it_is(browser: Browser, server: str) -> None:
    text = "\n\n".join(f"[slow 0.05] Part {number} tells of the sea. {LIGHTHOUSE}" for number in range(24))
    async with visit(browser, server) as page:
        await expect(page.locator("#file").get_by_label("Model")).to_be_enabled(timeout=PATIENCE)
        await page.locator("#file").get_by_label("Model").select_option("echo")
        await page.locator("#file").get_by_label("Length").select_option("short")
        card = await drop(page, "long.txt", text)
        await expect(card.get_by_role("progressbar")).to_have_attribute("max", re.compile(r"^([3-9]|\d\d)$"))
        await expect(card).to_contain_text(re.compile(r"Part \d+ of \d+"))
        await expect(card.get_by_role("progressbar")).to_have_count(0, timeout=2 * PATIENCE)
        await expect(card).to_contain_text(re.compile(r"characters → [\d,]+ in"))
        await expect(card.locator(".text")).not_to_be_empty()


async def test_a_file_that_cannot_be_read_says_why(browser: Browser, server: str) -> None:
    async with visit(browser, server, expected="status of 4") as page:
        card = await drop(page, "empty.txt", "")
        await expect(card.get_by_role("alert")).to_be_visible()
        await expect(card.get_by_role("alert")).not_to_be_empty()
        await expect(card.get_by_role("progressbar")).to_have_count(0)


async def test_a_failed_answer_shows_what_the_server_says(browser: Browser, server: str) -> None:
    async with visit(browser, server, expected="status of 502") as page:
        await ask(page, "Say nothing [fail]")
        await expect(page.locator("#ask-problem")).to_have_text("echo: failed, as the prompt said")
        answer = await ask(page, "Break off after three words [cut 3]")
        await expect(page.locator("#ask-problem")).to_have_text("echo: cut, as the prompt said")
        await expect(answer).to_have_text("Break off after")


async def test_a_model_that_is_loading_is_asked_again(browser: Browser, server: str) -> None:
    async with visit(browser, server, expected="status of 503") as page:
        loading = True

        async def say_later(route: Route) -> None:
            nonlocal loading
            if route.request.method != "POST" or not loading:
                await route.continue_()
                return
            loading = False
            await route.fulfill(status=503, headers={"retry-after": "2"}, json={"detail": "the model is loading"})

        await page.route("**/api/v1/generations", say_later)
        answer = await ask(page, "Good morning")
        await expect(page.locator("#ask-status")).to_have_text(re.compile(r"the model is loading; trying again in \d"))
        await expect(answer).to_have_text("Good morning")


async def test_waiting_for_a_busy_model_can_be_stopped(browser: Browser, server: str) -> None:
    async with visit(browser, server, expected="status of 503") as page:
        await ask(page, "Never [busy 600]")
        await expect(page.locator("#ask-status")).to_contain_text("trying again in")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#ask-status")).to_have_text("Stopped.")


async def test_history_goes_back_by_pages(browser: Browser, server: str) -> None:
    async with visit(browser, server) as page:
        for number in range(12):
            await page.request.post(f"{server}/api/v1/generations", data={"prompt": f"Number {number}"})
        await page.get_by_role("button", name="Refresh").click()
        rows = page.locator("#history li")
        await expect(rows.first).to_contain_text("Number 11", timeout=PATIENCE)
        await expect(rows).to_have_count(10)
        await page.get_by_role("button", name="Older").click()
        await expect(rows.nth(11)).to_contain_text("Number 0")


async def test_a_stranger_registers_and_then_has_a_history_of_their_own(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(MODELS, "utf-8")
    with served(tmp_path, LOQUENT_ANONYMOUS="off") as found:
        async with visit(browser, found.url, expected="status of 401") as page:
            expect.set_options(timeout=PATIENCE)
            await expect(page.get_by_role("heading", name="Log in")).to_be_visible()
            await expect(page.get_by_label("Prompt")).to_be_disabled()
            await page.get_by_label("User name").fill("ada")
            await page.get_by_label("Password").fill("a long enough password")
            await page.get_by_role("button", name="Log in").first.click()
            await expect(page.locator("#account-problem")).to_have_text("the username or the password is wrong")
            await page.get_by_role("button", name="Register").click()
            await expect(page.locator("#who")).to_have_text("ada")
            answer = await ask(page, "Hello from Ada")
            await expect(answer).to_have_text("Hello from Ada")
            await expect(page.locator("#history li")).to_have_count(1)
            await page.reload()
            await expect(page.locator("#history li")).to_contain_text("Hello from Ada")
            await page.get_by_role("button", name="Log out").click()
            await expect(page.get_by_role("heading", name="Log in")).to_be_visible()
            await expect(page.locator("#history li")).to_have_count(0)


async def test_the_page_fits_a_phone_and_works_by_keyboard(browser: Browser, server: str) -> None:
    async with visit(browser, server, width=340) as page:
        expect.set_options(timeout=PATIENCE)
        await expect(page.get_by_label("Prompt")).to_be_enabled()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
        await page.get_by_label("Prompt").focus()
        await page.keyboard.type("x" * 300)
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_role("region", name="Answer")).to_have_text("x" * 300)
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("path", ["/docs", "/api/v1/redoc"])
async def test_the_documentation_is_drawn(browser: Browser, server: str, path: str) -> None:
    async with visit(browser, f"{server}{path}") as page:
        for text in ("/api/v1/generations", "Ask a model"):
            await expect(page.get_by_text(text).filter(visible=True).first).to_be_visible(timeout=PATIENCE)


async def test_a_script_that_is_slipped_into_the_page_is_blocked_and_seen(browser: Browser, server: str) -> None:
    slip = "const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s);"
    with pytest.raises(AssertionError, match="Content Security Policy"):
        async with visit(browser, server) as page:
            await page.evaluate(f"() => {{ {slip} }}")
            assert await page.evaluate("window.ran") is None
