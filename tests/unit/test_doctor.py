"""The doctor asks every part that the settings name, and refuses what the programs themselves would refuse."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from built import ROWS
from collector import collecting
from forking import ran
from loquent.cli import app, marks
from loquent.cli.findings import Finding, installed
from loquent.domain.errors import Misconfigured
from loquent.ports.extras import install
from loquent.settings import Settings
from loquent.settings.environment import load_settings
from loquent.wiring import build
from redis_server import RedisServer, redis_server
from s3_server import KEYS, S3Server

NAMES = [name for each in fields(Settings) for name in (each.metadata["env"], *each.metadata["aliases"])]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty folder to be in, and the variables that a deployment there has; nothing else is set."""
    for name in (*NAMES, "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"):
        monkeypatch.setenv(name, "")  # and gone again at the end, whatever a command has put there
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.toml").write_text(ROWS)
    return {"PORT": "0", "LOQUENT_MODELS": str(tmp_path / "models.toml"), "LOQUENT_DATA_DIR": str(tmp_path / "data")}


def asked(environ: Mapping[str, str]) -> tuple[int, dict[str, list[str]], str]:
    """What the doctor says: the exit code, the lines by their mark, and all of it."""
    done = CliRunner().invoke(app, ["doctor"], env=dict(environ))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    lines = {
        mark: [line[4:] for line in done.stdout.splitlines() if line.startswith(f"  {mark} ")] for mark in marks.COLOURS
    }
    return done.exit_code, lines, done.output


def line(lines: list[str], begins: str) -> str:
    """The one that begins so."""
    [found] = [each for each in lines if each.startswith(begins)]
    return found


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A server that answers every POST with that status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"] or 0))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_each_part_that_is_there_says_so(house: dict[str, str], redis: RedisServer, s3: S3Server) -> None:
    with collecting() as collector:
        shared = {"LOQUENT_LIMITER": redis.url, "LOQUENT_CACHE": redis.url, "LOQUENT_QUEUE": redis.url}
        shared |= {"LOQUENT_BLOBS": s3.url(), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **KEYS}
        code, lines, said = asked({**house, **shared})
        assert code == 0, said
        assert not collector.spans
        assert len(collector.bodies) == 1
    assert line(lines["✓"], "limits: ") == f"limits: {redis.url}: answers"
    assert line(lines["✓"], "kept answers: ") == f"kept answers: {redis.url}: answers"
    assert line(lines["✓"], "redis://") == f"{redis.url}: answers"
    assert line(lines["✓"], "uploads: s3://").endswith(": can be kept")
    assert line(lines["✓"], "traces: ") == f"traces: {collector.url}: answers"
    assert "nothing keeps it from starting" in lines["✓"]


@pytest.mark.parametrize(("package", "told"), [("pypdf", ".pdf files"), ("PIL", "pictures")])
def test_what_reads_uploads_and_is_not_installed_is_told_with_the_command(
    monkeypatch: pytest.MonkeyPatch, package: str, told: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    extra = {"pypdf": "documents", "PIL": "images"}[package]
    assert installed() == [Finding(marks.DOUBT, f"{told} cannot be read", install(extra))]


def test_an_added_model_is_asked_too_and_where_it_is_away_it_is_said_where_it_should_be(
    house: dict[str, str], tmp_path: Path, free_port: int
) -> None:
    url = f"http://127.0.0.1:{free_port}/v1"
    (tmp_path / "more.toml").write_text(f'[[model]]\nname = "more"\nengine = "openai"\nid = "m"\nurl = "{url}"\n')
    assert CliRunner().invoke(app, ["models", "add", "more.toml"], env=house).exit_code == 0
    code, lines, said = asked(house)
    assert code == 0, said
    assert line(lines["!"], "more ").startswith(f"more (openai, added), at {url}: ")
    assert "nothing keeps it from starting" in lines["✓"]


def test_where_something_is_broken_nobody_says_that_all_is_well(house: dict[str, str], tmp_path: Path) -> None:
    rows = tmp_path / "own.toml"
    rows.write_text('[[model]]\nname = "far"\nengine = "openai"\nid = "m"\nurl = "https://x/v1"\nkey_env = "FAR_KEY"\n')
    code, lines, said = asked({**house, "LOQUENT_MODELS": str(rows)})
    assert code == 1, said
    assert any("FAR_KEY" in each for each in lines["✗"])
    assert "nothing keeps it from starting" not in lines["✓"]


def test_each_part_that_is_away_says_so_with_its_reason_and_what_goes_on_without(
    house: dict[str, str], free_port: int
) -> None:
    away = f"redis://ann:hunter2@127.0.0.1:{free_port}"
    traces = f"http://ann:hunter2@127.0.0.1:{free_port}"
    code, lines, said = asked(
        {**house, "LOQUENT_LIMITER": away, "LOQUENT_CACHE": away, "OTEL_EXPORTER_OTLP_ENDPOINT": traces}
    )
    assert code == 0, said
    for part in ("limits: ", "kept answers: "):
        found = line(lines["!"], part)
        assert f"ann:…@127.0.0.1:{free_port}: the server of the " in found
        assert "Connect call failed" in found
    assert line(lines["!"], "traces: ").endswith("the collector does not take spans: Connection refused")
    assert said.count("→ start it; until then") == 3
    assert "hunter2" not in said


def test_a_server_that_is_there_and_refuses_is_no_part_that_answers(house: dict[str, str], tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "s3cret") as locked, answering(401) as collector:
        wrong = locked.url.replace("//", "//:hunter2@")
        code, lines, said = asked(
            {**house, "LOQUENT_LIMITER": wrong, "OTEL_EXPORTER_OTLP_ENDPOINT": collector, "LOQUENT_CACHE": "off"}
        )
    assert code == 0, said
    assert "password" in line(lines["!"], "limits: ")
    assert "401" in line(lines["!"], "traces: ")
    assert "hunter2" not in said


def test_a_bucket_that_takes_nothing_and_a_folder_that_is_none_are_broken(
    house: dict[str, str], s3: S3Server, tmp_path: Path
) -> None:
    code, lines, said = asked({**house, "LOQUENT_BLOBS": s3.url("no-such-bucket"), **KEYS})
    assert code == 1, said
    assert "no-such-bucket" in line(lines["✗"], "uploads: s3://")
    (tmp_path / "letter").write_text("to a friend")
    code, lines, said = asked({**house, "LOQUENT_BLOBS": f"file://{tmp_path}/letter/blobs"})
    assert code == 1, said
    assert line(lines["✗"], "uploads: ").endswith("letter is no folder")


REFUSED = (
    ({"LOQUENT_DOCUMENT_MODEL": "nobody"}, "LOQUENT_DOCUMENT_MODEL holds 'nobody'"),
    ({"LOQUENT_LIMITER": "redis://127.0.0.1:x"}, "LOQUENT_LIMITER holds a URL that names no server"),
    ({"LOQUENT_CACHE": "redis://127.0.0.1:6379/first"}, "LOQUENT_CACHE holds a URL whose database is no number"),
    ({"LOQUENT_STORE": "memory:somewhere"}, "the memory store takes nothing after memory:"),
    ({"LOQUENT_BLOBS": "file:there"}, "it takes a folder, as in file:///"),
    ({"LOQUENT_SUMMARY_MODEL": "nobody"}, "LOQUENT_SUMMARY_MODEL holds 'nobody'"),
)


@pytest.mark.parametrize(("environ", "why"), REFUSED, ids=[next(iter(each)) for each, _ in REFUSED])
def test_what_cannot_be_put_together_is_broken_and_told_once(
    house: dict[str, str], environ: dict[str, str], why: str
) -> None:
    with pytest.raises(Misconfigured) as refused:
        build(load_settings({**house, **environ}))
    assert why in refused.value.message
    code, lines, said = asked({**house, **environ})
    assert code == 1, said
    assert len([each for each in lines["✗"] if why in each]) == 1, said


def test_records_that_an_empty_new_place_would_leave_behind_are_told(house: dict[str, str], tmp_path: Path) -> None:
    moved = {**house, "LOQUENT_STORE": f"sqlite:///{tmp_path / 'new.db'}"}
    assert not [each for each in asked(moved)[1]["!"] if "holds records" in each], "there are none"
    assert CliRunner().invoke(app, ["store", "upgrade"], env=house).exit_code == 0
    _, lines, told = asked(moved)
    assert line(lines["!"], f"{tmp_path}/data/loquent.db").endswith(
        "holds records, and LOQUENT_STORE names another place"
    )
    assert f"store copy --records sqlite:///{tmp_path}/data/loquent.db" in told
    assert CliRunner().invoke(app, ["store", "upgrade"], env=moved).exit_code == 0
    assert "holds records" not in asked(moved)[2], "nor where somebody has begun there"


def test_a_disk_with_less_room_than_is_kept_free_is_broken(house: dict[str, str], tmp_path: Path) -> None:
    code, lines, _ = asked({**house, "LOQUENT_FREE_SPACE": "1000000GB"})
    assert code == 1
    assert line(lines["✗"], str(tmp_path)).endswith("MB free, so that nothing new is begun (507)"), (
        "told once: one disk"
    )
    code, lines, _ = asked({**house, "LOQUENT_FREE_SPACE": "1000"})
    assert (code, lines["✗"]) == (0, [])


def test_a_secret_that_is_too_short_is_broken_and_nothing_is_written(house: dict[str, str], tmp_path: Path) -> None:
    code, lines, said = asked(house)
    assert (code, list(tmp_path.iterdir())) == (0, [tmp_path / "models.toml"]), said
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret").write_text("short")
    code, lines, said = asked(house)
    assert code == 1, said
    assert "holds 5 bytes; remove it" in line(lines["✗"], "loquent serve would not start: ")


MEMORY = {"LOQUENT_STORE": "memory:"}


@pytest.mark.parametrize(
    ("command", "environ", "why"),
    [
        ("serve", {"LOQUENT_WORKERS": "2"}, "LOQUENT_WORKERS holds 2 and LOQUENT_STORE memory"),
        ("worker", {}, "a worker would never find a job there"),
    ],
)
def test_records_in_memory_are_refused_to_several_processes_and_the_doctor_says_so(
    tmp_path: Path, house: dict[str, str], command: str, environ: dict[str, str], why: str
) -> None:
    started = ran("loquent", command, folder=tmp_path, environ={**house, **MEMORY, **environ})
    assert (started.returncode, started.stdout) == (2, "")
    assert started.stderr.startswith("loquent: LOQUENT_")
    assert why in started.stderr
    assert started.stderr.count("\n") == 1
    code, lines, said = asked({**house, **MEMORY, **environ})
    assert code == (1 if command == "serve" else 0), said
    mark = "✗" if command == "serve" else "!"
    assert why in line(lines[mark], f"loquent {command} would not start: ")


def test_the_help_says_what_each_mark_means() -> None:
    shown = CliRunner().invoke(app, ["doctor", "--help"]).stdout
    assert [mark for mark in marks.COLOURS if not re.search(rf"{re.escape(mark)} (is|may)", shown)] == []
    assert set(marks.COLOURS) == {marks.OK, marks.DOUBT, marks.BAD}
