"""The command line as its users call it: as a process, with pipes, on a terminal, by Ctrl-C, beside a server."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from samples import pdfs, words

pytestmark = pytest.mark.journey

ROWS = """
[[model]]
name = "parrot"
engine = "echo"
id = "echo"

[[model]]
name = "extractive"
engine = "extractive"
id = "extractive"
abilities = ["summary"]
"""
PAGES = 40
COMMAND = (sys.executable, "-m", "loquent")
SLOW = "[slow 0.05] [words 2000] and so on"
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def environ(tmp_path: Path, free_port: int) -> dict[str, str]:
    """What a process starts with: nothing of ours but the models, a data folder and a port."""
    (tmp_path / "models.toml").write_text(ROWS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOQUENT_")}
    own = {"LOQUENT_MODELS": "models.toml", "LOQUENT_DATA_DIR": "data", "LOQUENT_PORT": str(free_port)}
    return kept | own | {"LOQUENT_HOST": "127.0.0.1", "TERM": "xterm", "COLUMNS": "100"}


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Start:
    """Starts a command in that folder."""

    def started(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # as from a terminal; a suite that runs in the background has its children ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return started


def on_a_terminal(arguments: tuple[str, ...], folder: Path, environ: dict[str, str]) -> tuple[bytes, int]:
    """What a command writes to a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    try:
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not piece:
                break
            written += piece
    finally:
        os.close(ours)
        code = process.wait(60)
    return written, code


def undressed(written: bytes) -> str:
    """Without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())


def test_an_answer_streams_through_a_pipe_and_ctrl_c_keeps_what_there_is(start: Start) -> None:
    with start("generate", SLOW) as asked:
        assert asked.stdout is not None
        first = asked.stdout.read(20)  # while the answer is being made: the whole of it takes two minutes
        assert asked.poll() is None
        asked.send_signal(signal.SIGINT)
        rest, told = asked.communicate(timeout=60)
    assert asked.returncode == 130
    shown = (first + rest).decode()
    assert shown.startswith("and so on and so on")
    assert shown.endswith("\n")
    assert len(shown) < 2_000
    assert b"cancelled" in told
    assert b"Traceback" not in told
    assert b"\x1b" not in first + rest + told

    with start("generate", "after", "--json") as again:
        assert json.loads(again.communicate(timeout=60)[0])["status"] == "completed"


def test_a_reader_that_has_had_enough_ends_it_quietly(start: Start) -> None:
    with start("generate", SLOW) as asked:
        assert asked.stdout is not None
        assert asked.stderr is not None
        asked.stdout.read(5)
        asked.stdout.close()
        assert asked.wait(60) == 1
        assert b"Traceback" not in asked.stderr.read()


def test_a_long_pdf_and_a_docx_are_summarised_beside_a_broken_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "book.pdf").write_bytes(pdfs.book(PAGES))
    (tmp_path / "broken.pdf").write_bytes(pdfs.book(3)[:700])
    (tmp_path / "letter.docx").write_bytes(words.report())
    with start("summarize", "book.pdf", "broken.pdf", "letter.docx") as asked:
        shown, told = (each.decode() for each in asked.communicate(timeout=100))
    assert asked.returncode == 1
    assert re.search(rf"^book\.pdf \(pdf, {PAGES} pages, [\d,]+ characters, extractive, [\d.]+ s\)$", shown, re.M)
    assert re.search(r"^letter\.docx \(docx, [\d,]+ characters, extractive, [\d.]+ s\)$", shown, re.M)
    assert "harbour" in shown
    assert re.fullmatch(r"loquent: broken\.pdf: .+\n", told)
    assert "\x1b" not in shown + told


def test_a_terminal_sees_how_far_it_is(tmp_path: Path, environ: dict[str, str]) -> None:
    for name in ("one.pdf", "two.pdf"):
        (tmp_path / name).write_bytes(pdfs.book(PAGES))
    written, code = on_a_terminal(("summarize", "one.pdf", "two.pdf"), tmp_path, environ)
    assert code == 0
    for said in ("reading one.pdf", "files", "1/2", "one.pdf (pdf, 40 pages, "):
        assert said in undressed(written)
    assert b"\x1b[1mone.pdf (pdf" in written

    (tmp_path / "long.txt").write_text("The harbour has a market. [slow 0.01]\n" * 800)
    written, code = on_a_terminal(("summarize", "long.txt", "--model", "parrot"), tmp_path, environ)
    assert code == 0
    assert re.search(
        r"summarising long\.txt [━╸╺ ]+ [1-9]/[2-9] ", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())
    )

    plain, code = on_a_terminal(("summarize", "one.pdf"), tmp_path, environ | {"NO_COLOR": "1"})
    assert code == 0
    assert b"\x1b[3" not in plain  # bold may stay, colour not


def test_a_model_cannot_command_the_terminal(tmp_path: Path, environ: dict[str, str]) -> None:
    written, code = on_a_terminal(("generate", "a\x1b]0;title\x07 b"), tmp_path, environ)
    assert code == 0
    assert b"\x1b]0;" not in written
    assert "a�]0;title� b" in written.decode()


def test_a_command_works_beside_a_server_and_the_page_sees_it(start: Start, environ: dict[str, str]) -> None:
    address = f"http://127.0.0.1:{environ['LOQUENT_PORT']}"
    with start("serve") as server:
        try:
            until = time.monotonic() + 60
            while not answers(address):
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            with start("generate", "from the command line", "--json") as asked:
                made = json.loads(asked.communicate(timeout=60)[0])
            listed = httpx2.get(f"{address}/api/v1/generations").json()["data"]
            assert [(each["id"], each["surface"]) for each in listed] == [(made["id"], "cli")]
            with start("doctor") as doctor:
                told = doctor.communicate(timeout=60)[0].decode()
            assert doctor.returncode == 0, told
            assert f"a Loquent answers on 127.0.0.1 port {environ['LOQUENT_PORT']}" in told
        finally:
            server.terminate()
            server.communicate(timeout=60)


def answers(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/api/v1/health/live", timeout=2).is_success
    except httpx2.HTTPError:
        return False
