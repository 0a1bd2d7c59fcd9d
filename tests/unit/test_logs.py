"""Logs: on standard output and in a file that rotates, by levels; what people write only where that is wanted."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from select import PIPE_BUF
from types import SimpleNamespace
from typing import Any

import pytest

from asking import JSON, ask
from built import ANN, opened, settings_for, wanted
from forking import ran
from loquent.domain.log import CONTENT, Log
from loquent.services.history import Filters
from loquent.web import logs, observe
from loquent.web.app import create_app
from loquent.web.observe import AccessLog, configure_logs

pytestmark = pytest.mark.anyio
Configured = Callable[..., Path]


@pytest.fixture
def configured(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Iterator[Configured]:
    """``configured(LOG_LEVEL="debug")``: logs as those settings want them; gives the file. All is undone at the end."""
    root = logging.getLogger()
    kept = (root.level, root.handlers[:], sys.excepthook, logging._srcfile, logging.logThreads)
    ours = [logging.getLogger(name) for name in ("loquent", CONTENT)]
    levels = [each.level for each in ours]
    root.handlers = []

    def configure(**environ: str) -> Path:
        configure_logs(settings_for(tmp_path, **environ))
        return tmp_path / "data" / "app.log"

    yield configure
    for handler in root.handlers:
        if isinstance(handler, observe.Lines):
            handler.stop()
    while observe._named:
        logging.getLogger(observe._named.pop()).setLevel(logging.NOTSET)
    root.handlers = kept[1]
    root.setLevel(kept[0])
    sys.excepthook, logging._srcfile, logging.logThreads = kept[2:]
    logging.logProcesses = logging.logMultiprocessing = True
    for each, level in zip(ours, levels, strict=True):
        each.setLevel(level)


def flush() -> None:
    logging.getLogger().handlers[0].flush()


def lines(file: Path) -> list[dict[str, Any]]:
    """What the log holds now."""
    flush()
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_a_line_is_json_in_the_file_and_on_standard_output(configured: Configured, capfdbinary: Any) -> None:
    file = configured()
    Log("loquent.x").info("it happened", name="größer", number=7)
    Log("loquent.x").debug("not said")
    [line] = lines(file)
    assert (line["event"], line["logger"], line["level"], line["name"]) == (
        "it happened",
        "loquent.x",
        "info",
        "größer",
    )
    assert json.loads(capfdbinary.readouterr().out) == line
    assert file.stat().st_mode & 0o007 == 0, "it is not everybody's"


def test_text_for_people_goes_with_json_in_the_file(configured: Configured, capfdbinary: Any) -> None:
    file = configured(LOQUENT_LOG_FORMAT="text")
    Log("loquent.x").warning("it happened", number=7)
    assert lines(file)[0]["number"] == 7
    assert re.fullmatch(rb"[\d:]{8} warning it happened +number=7\n", capfdbinary.readouterr().out)


def test_without_a_file_there_is_none(configured: Configured) -> None:
    file = configured(LOQUENT_LOG_FILE="off")
    Log("loquent.x").info("it happened")
    flush()
    assert not file.exists()


def test_levels_are_each_loggers_own_and_the_next_call_forgets_them(configured: Configured) -> None:
    file = configured(
        LOG_LEVEL="warning", LOQUENT_LOG_LEVELS="loquent.runner=DEBUG, other=INFO", DISABLE_LOGGERS="loquent.http, loud"
    )
    for name in ("loquent.runner", "loquent.jobs", "loquent.http", "other", "other.one", "loud.one"):
        for level in ("debug", "info", "error"):
            getattr(Log(name), level)(level)
    assert [(line["logger"], line["event"]) for line in lines(file)] == [
        ("loquent.runner", "debug"), ("loquent.runner", "info"), ("loquent.runner", "error"), ("loquent.jobs", "error"),
        ("other", "info"), ("other", "error"), ("other.one", "info"), ("other.one", "error"),
    ]  # fmt: skip
    configured(LOG_LEVEL="warning")
    assert not Log("loquent.runner").says(logging.INFO)
    assert Log("loquent.http").says(logging.WARNING)


@pytest.mark.parametrize("name", ["loquent.http", "uvicorn.access"])
async def test_the_access_log_can_be_silenced_by_its_own_name_and_its_old_one(
    configured: Configured, tmp_path: Path, name: str
) -> None:
    file = configured(DISABLE_LOGGERS=name)
    async with opened(tmp_path, works=False) as services:
        await ask(create_app(services), "GET", "/api/v1/health")
    assert not [line for line in lines(file) if line["logger"] == "loquent.http"] if file.exists() else True


@pytest.mark.parametrize("form", ["json", "text"])
async def test_each_request_is_a_line_of_the_same_form_as_all(
    configured: Configured, tmp_path: Path, form: str, capfdbinary: Any
) -> None:
    file = configured(LOQUENT_LOG_FORMAT=form)
    async with opened(tmp_path, works=False) as services:
        await ask(create_app(services), "GET", "/nowhere/ü", headers=[("x-request-id", "req-1")])
    [line] = [line for line in lines(file) if line["logger"] == "loquent.http"]
    assert list(line) == ["time", "level", "logger", "event", "request_id", "method", "path", "status", "ms"]
    assert (line["path"], line["status"], line["request_id"]) == ("/nowhere/ü", 404, "req-1")
    assert capfdbinary.readouterr().out.count(b"req-1") == 1


@pytest.mark.parametrize("on", [True, False])
async def test_what_people_write_is_logged_only_where_that_is_wanted(
    configured: Configured, tmp_path: Path, on: bool
) -> None:
    wish = {"LOG_CONTENT": "on"} if on else {}
    file = configured(LOG_LEVEL="debug", LOQUENT_LOG_LEVELS="loquent.content=DEBUG", **wish)
    sqlite = f"sqlite:///{tmp_path}/x.db"
    async with opened(tmp_path, works=False, LOQUENT_STORE=sqlite) as services:
        await services.generations.collect(await services.generations.begin(ANN, wanted("a secret wish")))
        await services.accounts.register("dora", "a long enough one")
        body = b'{"messages":[{"role":"user","content":"a secret wish"}]}'
        await ask(create_app(services), "POST", "/api/v1/generations", headers=[JSON], body=body)
    said = lines(file)
    spoken = [(line["event"], line["kind"]) for line in said if line["logger"] == CONTENT]
    assert spoken == ([("asked", "text"), ("answered", "text"), ("asked", "chat"), ("answered", "chat")] if on else [])
    assert ("a secret wish" in file.read_text()) is on
    assert "argon2" not in file.read_text(), "a password's hash is nobody's to read"
    assert any("values" in line for line in said if line["logger"] == "loquent.sql") is on


async def test_statements_are_logged_at_debug_with_their_rows_and_cost_nothing_otherwise(
    configured: Configured, tmp_path: Path
) -> None:
    sqlite = f"sqlite:///{tmp_path}/x.db"
    file = configured(LOQUENT_LOG_LEVELS="loquent.sql=DEBUG")
    async with opened(tmp_path, works=False, LOQUENT_STORE=sqlite) as services:
        await services.generations.collect(await services.generations.begin(ANN, wanted("x")))
        listed = await services.generations.page(ANN, Filters(kind="text"), limit=5)
        assert len(listed.items) == 1
    said = [line for line in lines(file) if line["logger"] == "loquent.sql"]
    assert {line["sql"].split()[0] for line in said} >= {"INSERT", "SELECT"}
    assert [line["rows"] for line in said if line["sql"].startswith("INSERT INTO generations")] == [1]
    assert all(line["level"] == "debug" and "?" in line["sql"] for line in said if "WHERE" in line["sql"])
    configured()
    async with opened(tmp_path, works=False, LOQUENT_STORE=sqlite) as services:
        assert type(services.store._driver).__name__ == "Threads", "nothing stands between"  # type: ignore[attr-defined]

    return Filters(kind="text")


def test_a_full_file_is_rotated_and_so_many_are_kept(configured: Configured) -> None:
    file = configured(LOQUENT_LOG_FILE_SIZE="1000", LOQUENT_LOG_FILES="3")
    for number in range(100):
        Log("loquent.x").info("a line", number=number)
        flush()
    there = sorted(each.name for each in file.parent.iterdir() if each.name.startswith("app"))
    assert there == ["app.log", "app.log.1", "app.log.2", "app.log.3"]
    numbers = [
        json.loads(line)["number"] for name in reversed(there) for line in (file.parent / name).read_text().splitlines()
    ]
    assert numbers == list(range(numbers[0], 100)), "in order, without a gap, the newest in app.log"
    assert all((file.parent / name).stat().st_size <= 1000 for name in there)


WRITES = """
    import logging, sys
    from pathlib import Path
    from loquent.domain.log import Log
    from loquent.settings import read
    from loquent.web.observe import configure_logs
    small = {"LOQUENT_LOG_FILE_SIZE": "20000", "LOQUENT_LOG_FILES": "500"}
    configure_logs(read({"LOQUENT_DATA_DIR": sys.argv[1], **small}))
    for number in range(400):
        Log("loquent.x").info("a line", who=sys.argv[2], number=number, fill="x" * 100)
        if number % 7 == 0:
            logging.getLogger().handlers[0].flush()
"""


def test_several_processes_on_one_file_lose_nothing_and_tear_no_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITES), str(tmp_path)]
    started = [subprocess.Popen([*command, who], stdout=subprocess.DEVNULL) for who in "abc"]
    assert [each.wait(60) for each in started] == [0, 0, 0]
    files = [each for each in tmp_path.iterdir() if each.name.startswith("app.log")]
    assert len(files) > 5
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted((line["who"], line["number"]) for line in found) == [(who, n) for who in "abc" for n in range(400)]


CRASHES = """
    import sys
    from loquent.domain.log import Log
    from loquent.settings import read
    from loquent.web.observe import configure_logs
    configure_logs(read({"LOQUENT_DATA_DIR": sys.argv[1]}))
    Log("loquent.x").info("the last line")
    sys.stderr = sys.stdout
    if sys.argv[2] == "crash":
        raise RuntimeError("nobody caught this")
"""


@pytest.mark.parametrize("end", ["crash", "ends"])
def test_what_was_said_last_is_written_at_the_end_and_before_a_crash(tmp_path: Path, end: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CRASHES), str(tmp_path), end]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    first, _, rest = done.stdout.partition("\n")
    assert json.loads(first)["event"] == "the last line"
    assert ("nobody caught this" in rest, done.returncode) == ((True, 1) if end == "crash" else (False, 0))
    assert "the last line" in (tmp_path / "app.log").read_text()


@pytest.mark.parametrize("is_shared", [True, False])
def test_lines_are_written_so_that_nobody_tears_them_only_where_others_write_there_too(
    tmp_path: Path, configured: Configured, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    written: list[bytes] = []
    out = SimpleNamespace(buffer=SimpleNamespace(write=written.append, flush=bool), flush=bool, isatty=bool)
    monkeypatch.setattr(sys, "stdout", out)
    configured()  # so that all is undone at the end
    configure_logs(settings_for(tmp_path, LOQUENT_WORKERS="2"), shares_output=is_shared)
    for number in range(PIPE_BUF):
        Log("loquent.x").info("a line", number=number)
    flush()
    assert (max(map(len, written)) <= PIPE_BUF) == is_shared
    assert b"".join(written).count(b"\n") == PIPE_BUF


def test_a_file_that_cannot_be_written_is_told_once_and_tried_again(configured: Configured, capfdbinary: Any) -> None:
    file = configured()
    file.mkdir(parents=True)
    for _ in range(3):
        Log("loquent.x").info("it goes on")
        flush()
        flush()  # the warning came while the first was under way
    out = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["event"] for line in out].count("it goes on") == 3
    [warning] = [line for line in out if line["logger"] == "loquent.log"]
    said = f"the log file {file} cannot be written: Is a directory"
    assert (warning["level"], warning["event"]) == ("warning", said)
    file.rmdir()
    Log("loquent.x").info("it is well again")
    assert [line["event"] for line in lines(file)] == ["it is well again"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_stops_nobody(configured: Configured, capfdbinary: Any) -> None:
    configured(LOQUENT_LOG_FILE="/dev/full")
    for _ in range(3):
        Log("loquent.x").info("it goes on")
        flush()
        flush()
    events = [json.loads(line)["event"] for line in capfdbinary.readouterr().out.splitlines()]
    assert events.count("it goes on") == 3
    assert len([event for event in events if "cannot be written: No space left" in event]) == 1


def test_a_removed_or_moved_file_is_begun_anew(configured: Configured) -> None:
    file = configured()
    for number, end in enumerate((file.unlink, lambda: file.rename(file.with_name("moved")), lambda: None)):
        Log("loquent.x").info("a line", number=number)
        assert [line["number"] for line in lines(file)] == [number]
        end()


class Stuck:
    """A place that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, lines: bytes) -> None:
        self.lines.append(lines)

    def close(self) -> None:
        pass


def test_lines_that_nobody_takes_are_bounded_and_those_that_were_dropped_are_counted() -> None:
    out = Stuck()
    sink = logs.Sink(out)
    for _ in range(logs.MOST_WAITING + 3):
        sink.put(b"x\n")
    [told] = sink.write()
    assert told.startswith("3 lines of the log were dropped")
    assert out.lines == [b"x\n" * logs.MOST_WAITING]
    assert sink.write() == []


def test_a_line_that_comes_while_others_are_written_is_written_too(configured: Configured) -> None:
    file = configured()
    access = AccessLog()
    for number in range(5_000):
        access("GET", f"/{number}", 200, 0.5, "req")
    assert [line["path"] for line in lines(file)] == [f"/{number}" for number in range(5_000)]


async def test_lines_come_by_themselves_also_after_a_library_has_set_up_its_own_logs(configured: Configured) -> None:
    file = configured()
    quiet = {"version": 1, "disable_existing_loggers": False}
    for number in range(2):
        Log("loquent.x").info("a line", number=number)
        async with asyncio.timeout(10):
            while not file.exists() or file.read_text().count("\n") <= number:
                await asyncio.sleep(0.02)
        logging.config.dictConfig({**quiet, "loggers": {"another": {"level": "INFO"}}})  # as granian does
    [handler, _] = logging.getLogger().handlers
    assert isinstance(handler, observe.Lines)


def test_commands_write_no_log_file(tmp_path: Path) -> None:
    environ = {**os.environ, "LOQUENT_DATA_DIR": str(tmp_path / "data"), "LOQUENT_STORE": f"sqlite:///{tmp_path}/x.db"}
    for command in (["store", "upgrade"], ["--help"]):
        assert ran("loquent", *command, folder=tmp_path, environ=environ).returncode == 0
    assert not list(tmp_path.rglob("app.log*"))


def test_lines_go_to_a_shared_pipe_whole_in_pieces_that_it_takes_as_one() -> None:
    lines = b"".join(b"%d:%s\n" % (number, b"x" * (number * 7 % 90)) for number in range(200)) + b"y" * 300 + b"\nz\n"
    pieces = list(logs.whole_lines(lines, 200))
    assert b"".join(pieces) == lines
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert [len(piece) for piece in pieces if len(piece) > 200] == [301]  # the line that is longer by itself
    assert list(logs.whole_lines(lines, len(lines))) == [lines]
