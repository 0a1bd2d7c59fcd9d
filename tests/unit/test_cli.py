"""The command line: each command on a folder of its own, with the models that are shipped for tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner, Result

from built import ANN
from loquent import __version__
from loquent.cli import app
from loquent.cli.inside import run
from loquent.cli.summarize import summarize
from loquent.domain.generations import Content, Generation
from loquent.domain.principals import Principal
from loquent.domain.summaries import LENGTHS
from loquent.services.history import Filters
from loquent.settings import Settings
from loquent.settings.environment import load_settings
from loquent.wiring import Services, build
from storing import keep

ROWS = """
[[model]]
name = "parrot"
engine = "echo"
id = "echo"
price = {input = 1, output = 2}

[[model]]
name = "extractive"
engine = "extractive"
id = "extractive"
abilities = ["summary"]
"""
WHAT = ("bread", "wool", "salt", "clocks", "letters", "horses", "lamps", "cheese", "paper", "nails", "songs", "boats")
WHERE = ("over the pass", "down the river", "to the northern market", "for the harvest", "behind the mill")
TEXT = "\n".join(
    f"In {1900 + year} the guild of Brugg sent {WHAT[year % 12]} and {WHAT[year * 7 % 11]} {WHERE[year % 5]}."
    for year in range(1, 60)
)
PASSWORD = "correct horse battery"
Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in an empty folder, its only setting the models and a data folder."""
    for each in fields(Settings):
        for name in (each.metadata["env"], *each.metadata["aliases"]):
            monkeypatch.delenv(name, raising=False)
    (tmp_path / "models.toml").write_text(ROWS)
    monkeypatch.setenv("LOQUENT_MODELS", str(tmp_path / "models.toml"))
    monkeypatch.setenv("LOQUENT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **more: CliRunner().invoke(app, [str(each) for each in arguments], **more)


def with_services(do: Callable[[Services], Any]) -> Any:
    """What a coroutine made from the services gives, on the data that the commands used."""

    async def go() -> Any:
        services = build(load_settings())
        await services.open(works=False)
        try:
            return await do(services)
        finally:
            await services.close()

    return run(go())


def history(who: Callable[[Services], Principal] | None = None) -> list[tuple[Generation, Content]]:
    """What is kept of the caller without an account, or of another; newest first."""

    async def read(services: Services) -> list[tuple[Generation, Content]]:
        asker = who(services) if who else services.accounts.who(None, "127.0.0.1")
        page = await services.generations.page(asker, Filters(), limit=50)
        return list(zip(page.items, await services.generations.contents(asker, page.items), strict=True))

    found: list[tuple[Generation, Content]] = with_services(read)
    return found


# --- as a whole ------------------------------------------------------------------------------------------------------


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    group = group or typer.main.get_command(app)
    yield path, group
    for name, each in getattr(group, "commands", {}).items():
        yield from commands(each, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_command_has_complete_help(path: tuple[str, ...], command: Command) -> None:
    shown = command(*path, "--help")
    assert shown.exit_code == 0
    found = dict(commands())[path]
    assert found.help
    assert found.help.splitlines()[0] in " ".join(shown.stdout.split())
    assert [each.name for each in found.params if not getattr(each, "help", None)] == []


def test_the_commands_are_those_that_are_promised() -> None:
    assert {" ".join(path) for path, _ in commands()} >= {
        *("serve", "worker", "generate", "summarize", "doctor"),
        *(
            "models list",
            "models add",
            "models remove",
            "models pull",
            "users add",
            "users list",
            "users disable",
            "users enable",
            "users revoke",
            "users promote",
            "users demote",
            "store upgrade",
            "store check",
        ),
        *("store sweep", "store backup", "store copy"),
    }


def test_the_version_is_told(command: Command) -> None:
    assert command("--version").stdout == f"loquent {__version__}\n"


def test_help_needs_nothing_heavy() -> None:
    heavy = {"rich", "sqlalchemy", "fastapi", "aiohttp", "pydantic", "loquent.wiring", "loquent.stores"}
    code = f"import sys, loquent.cli; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_setting_that_cannot_be_read_is_one_line_and_exit_code_2(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOQUENT_PORT", "everything")
    for arguments in (("generate", "hello"), ("summarize", "a.txt"), ("users", "add", "ann"), ("store", "check")):
        done = command(*arguments)
        assert done.exit_code == 2
        assert done.stderr == "loquent: LOQUENT_PORT holds 'everything'; it takes a whole number from 0 to 65535\n"


def test_a_data_folder_that_cannot_be_used_is_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "loquent.db.in-use").mkdir()
    done = command("generate", "hello")
    assert done.exit_code == 1
    assert done.stderr.startswith("loquent: ")
    assert done.stderr.count("\n") == 1
    assert "loquent.db.in-use" in done.stderr


# --- generate --------------------------------------------------------------------------------------------------------


def test_an_answer_goes_to_stdout_and_what_it_used_to_stderr(command: Command) -> None:
    done = command("generate", "the river rose")
    assert done.exit_code == 0
    assert done.stdout == "the river rose\n"
    assert done.stderr.startswith("parrot · 3 tokens in, 3 out · first after ")
    assert done.stderr.rstrip().endswith("cost 0.000009")


def test_an_answer_is_in_the_history_of_the_local_page(command: Command) -> None:
    command("generate", "the river rose", "--seed", 7)
    ((kept, content),) = history()
    assert (kept.surface, kept.kind, kept.status, kept.model) == ("cli", "text", "completed", "parrot")
    assert (content.input, content.output) == ({"prompt": "the river rose"}, "the river rose")
    assert kept.parameters == {"seed": 7}


def test_a_system_text_makes_a_chat(command: Command) -> None:
    assert command("generate", "the river rose", "--system", "be brief").stdout == "the river rose\n"
    ((kept, content),) = history()
    assert kept.kind == "chat"
    assert [each["role"] for each in content.input["messages"]] == ["system", "user"]


def test_the_record_as_json_is_that_of_the_api(command: Command) -> None:
    from loquent.web.api.shown import shown

    done = command("generate", "the river rose", "--json")
    assert done.stderr == ""
    assert json.loads(done.stdout) == json.loads(json.dumps(shown(*history()[0])))


def test_a_prompt_can_come_by_standard_input(command: Command) -> None:
    assert command("generate", "-", input="die Aare stieg\n").stdout == "die Aare stieg\n"


def test_an_answer_keeps_to_the_limits_asked_for(command: Command) -> None:
    assert command("generate", "one two three four", "--max-tokens", 2).stdout == "one two\n"
    assert "cut at the token limit" in command("generate", "one two three", "--max-tokens", 2).stderr
    assert command("generate", "one two three four", "--stop", "three").stdout.strip() == "one two"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (" ", "the prompt is empty"),
        ("a\0b", "the prompt has a NUL character in it"),
        ("\ud800", "the prompt is not UTF-8"),
    ],
)
def test_a_prompt_that_is_no_text_is_refused(prompt: str, said: str, command: Command) -> None:
    done = command("generate", prompt)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"loquent: {said}\n")


def test_standard_input_that_is_no_text_is_refused(command: Command) -> None:
    done = command("generate", "-", input=b"caf\xe9")
    assert (done.exit_code, done.stderr) == (1, "loquent: standard input is not UTF-8, at byte 3\n")


def test_a_model_that_is_not_there_is_named_with_those_that_are(command: Command) -> None:
    done = command("generate", "hello", "--model", "gpt-9")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "loquent: there is no model 'gpt-9'; the models are: parrot, extractive\n"


@pytest.mark.parametrize("wrong", [("--temperature", "nan"), ("--max-tokens", "0"), ("--seed", "-1"), ("--stop", "")])
def test_a_parameter_out_of_bounds_is_refused(wrong: tuple[str, str], command: Command) -> None:
    done = command("generate", "hello", *wrong)
    assert done.exit_code == 2
    assert wrong[0] in done.stderr


def test_at_most_four_stop_strings_are_taken(command: Command) -> None:
    four = [word for stop in "abcd" for word in ("--stop", stop)]
    assert command("generate", "hello", *four).exit_code == 0
    assert command("generate", "hello", *four, "--stop", "e").exit_code == 2


def test_what_there_is_of_a_failed_answer_is_shown_and_kept(command: Command) -> None:
    done = command("generate", "one two three four [cut 2]")
    assert (done.exit_code, done.stdout) == (1, "one two\n")
    assert "· failed\nloquent: echo: " in done.stderr
    ((kept, content),) = history()
    assert (kept.status, content.output) == ("failed", "one two")


def test_a_failed_record_is_printed_as_json_too(command: Command) -> None:
    done = command("generate", "one two three [cut 2]", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["code"] == "engine_failed"


def test_a_user_can_be_asked_for(command: Command) -> None:
    command("users", "add", "ann", "--password-stdin", input=PASSWORD)
    assert command("generate", "the river rose", "--as", "ann").exit_code == 0
    assert history() == []

    async def token(services: Services) -> str:
        return await services.accounts.log_in("ann", PASSWORD)

    told = with_services(token)
    assert len(history(lambda services: services.accounts.who(told, "127.0.0.1"))) == 1


def test_a_user_that_is_disabled_asks_nothing(command: Command) -> None:
    command("users", "add", "ann", "--password-stdin", input=PASSWORD)
    command("users", "disable", "ann")
    done = command("generate", "hello", "--as", "ann")
    assert (done.exit_code, "'ann' is disabled" in done.stderr) == (1, True)


def test_a_user_that_is_not_there_is_said(command: Command) -> None:
    done = command("generate", "hello", "--as", "bob")
    assert (done.exit_code, done.stderr) == (
        1,
        "loquent: there is no user 'bob'; make one with: loquent users add bob\n",
    )


def test_the_operators_own_calls_are_not_rated(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOQUENT_LIMIT_SUMMARIES", "1/hour")
    (tmp_path / "a.txt").write_text(TEXT)
    assert command("summarize", "a.txt", "a.txt", "a.txt").exit_code == 0


# --- users -----------------------------------------------------------------------------------------------------------


def test_who_is_disabled_cannot_log_in_until_enabled_again(command: Command, tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        command("users", "add", name, "--password-stdin", input=PASSWORD)
    assert command("users", "disable", "ann").stdout == "disabled ann\n"
    listed = command("users", "list").stdout.splitlines()
    assert [(line.split()[2], line.split()[-1]) for line in listed] == [("active", "bob"), ("disabled", "ann")]
    assert command("users", "enable", "ann").exit_code == 0
    assert command("users", "revoke", "ann").stdout == "revoked the tokens of ann\n"
    assert "disabled" not in command("users", "list").stdout
    gone = command("users", "disable", "carol")
    assert (gone.exit_code, "no user 'carol'" in gone.stderr) == (1, True)


def test_a_user_is_made_with_a_password_asked_for_twice(command: Command) -> None:
    done = command("users", "add", "ann", "--email", "ann@example.org", input=f"{PASSWORD}\n{PASSWORD}\n")
    assert done.exit_code == 0
    assert "added ann (usr_" in done.stdout
    assert PASSWORD not in done.output

    async def log_in(services: Services) -> str:
        return await services.accounts.log_in("ann", PASSWORD)

    assert with_services(log_in)


def test_two_different_passwords_are_asked_for_again(command: Command) -> None:
    done = command("users", "add", "ann", input=f"{PASSWORD}\nanother one\n{PASSWORD}\n{PASSWORD}\n")
    assert done.exit_code == 0
    assert "do not match" in done.stderr


def test_a_name_that_is_taken_is_said(command: Command) -> None:
    command("users", "add", "ann", "--password-stdin", input=PASSWORD)
    done = command("users", "add", "ann", "--password-stdin", input=PASSWORD)
    assert (done.exit_code, done.stderr) == (1, "loquent: username is taken\n")


def test_a_short_password_is_refused(command: Command) -> None:
    done = command("users", "add", "ann", "--password-stdin", input="short\n")
    assert (done.exit_code, done.stderr) == (1, "loquent: a password has 8 to 1024 characters\n")


def test_a_wrong_name_is_refused_before_a_password_is_asked_for(command: Command) -> None:
    done = command("users", "add", "a/b")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("loquent: a username has")


def test_an_account_in_memory_is_not_made(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOQUENT_STORE", "memory:")
    done = command("users", "add", "ann", "--password-stdin", input=PASSWORD)
    assert done.exit_code == 2
    assert "LOQUENT_STORE" in done.stderr


# --- summarize -------------------------------------------------------------------------------------------------------


def test_a_summary_says_what_was_read(command: Command, tmp_path: Path) -> None:
    (tmp_path / "river.md").write_text(TEXT)
    done = command("summarize", "river.md")
    assert done.exit_code == 0
    title, _, summary = done.stdout.partition("\n\n")
    assert title.startswith(f"river.md (md, {len(TEXT):,} characters, extractive, ")
    assert summary.count("guild of Brugg") > 1
    ((kept, content),) = history()
    assert (kept.kind, kept.surface, content.output.strip()) == ("summary", "cli", summary.strip())


def test_a_bad_file_does_not_stop_the_others(command: Command, tmp_path: Path) -> None:
    (tmp_path / "first.txt").write_text(TEXT)
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing of use")
    (tmp_path / "last.txt").write_text(TEXT)
    done = command("summarize", "first.txt", "broken.pdf", "nowhere.txt", tmp_path, "last.txt")
    assert done.exit_code == 1
    assert [line.split()[0] for line in done.stdout.splitlines() if ".txt (" in line] == ["first.txt", "last.txt"]
    broken, nowhere, folder = done.stderr.splitlines()
    assert broken.startswith("loquent: broken.pdf: ")
    assert nowhere == "loquent: nowhere.txt: there is no such file"
    assert folder == f"loquent: {tmp_path}: this is a folder; name the files in it"


def test_summaries_as_json_are_a_line_for_each_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "river.txt").write_text(TEXT)
    done = command("summarize", "river.txt", "nowhere.txt", "--json")
    good, bad = map(json.loads, done.stdout.splitlines())
    assert (good["file"], good["kind"], good["characters"], good["model"]) == (
        "river.txt",
        "txt",
        len(TEXT),
        "extractive",
    )
    assert good["summary"] == history()[0][1].output
    assert good["id"] == history()[0][0].id
    assert bad["summary"] is None
    assert bad["error"] == {"code": "not_found", "message": "there is no such file"}


def test_summaries_can_be_written_to_a_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "river.txt").write_text(TEXT)
    done = command("summarize", "river.txt", "--output", "short.txt")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / "short.txt").read_text().startswith("river.txt (txt, ")


def test_a_file_that_is_read_is_not_written_over(command: Command, tmp_path: Path) -> None:
    (tmp_path / "river.txt").write_text(TEXT)
    assert command("summarize", "river.txt", "-o", "river.txt").exit_code == 2
    assert (tmp_path / "river.txt").read_text() == TEXT


def test_a_text_can_come_by_standard_input(command: Command) -> None:
    done = command("summarize", "-", input=TEXT)
    assert done.stdout.startswith(f"standard input (txt, {len(TEXT):,} characters, ")
    assert command("summarize", "-", "-", input=TEXT).exit_code == 2


def test_a_length_can_be_asked_for(command: Command, tmp_path: Path) -> None:
    (tmp_path / "river.txt").write_text(TEXT)
    made = {
        length: json.loads(command("summarize", "river.txt", "--json", "--length", length).stdout) for length in LENGTHS
    }
    assert len(made["short"]["summary"]) < len(made["long"]["summary"])
    assert command("summarize", "river.txt", "--length", "huge").exit_code == 2


def test_the_lengths_are_those_that_summaries_have() -> None:
    assert get_args(get_args(get_type_hints(summarize, include_extras=True)["length"])[0]) == tuple(LENGTHS)


def test_a_model_that_chats_makes_a_summary_in_another_language(command: Command, tmp_path: Path) -> None:
    (tmp_path / "river.txt").write_text(TEXT)
    assert command("summarize", "river.txt", "--language", "German", "--model", "parrot").exit_code == 0
    assert history()[0][1].input["language"] == "German"
    refused = command("summarize", "river.txt", "--language", "German")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("loquent: river.txt: the model 'extractive' keeps to the text's own language")


# --- store -----------------------------------------------------------------------------------------------------------


def test_a_store_is_made_then_sound(command: Command) -> None:
    missing = command("store", "check")
    assert missing.exit_code == 1
    assert "not there yet" in missing.stderr
    assert command("store", "upgrade").exit_code == 0
    sound = command("store", "check")
    assert (sound.exit_code, sound.stderr) == (0, "")
    assert sound.stdout.endswith("sound\n")


def count_of(shown: str, what: str) -> str:
    """The number that stands before that in a table."""
    return next(line.split()[0] for line in shown.splitlines() if line.strip().endswith(what))


def test_a_sweep_removes_what_a_dry_run_says_and_no_large_share_unasked(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep_many(services: Services) -> None:
        for _ in range(100):
            await keep(services.store)

    with_services(keep_many)
    for arguments in (("store", "sweep"), ("store", "sweep", "--dry-run")):
        nothing = command(*arguments)
        assert (nothing.exit_code, nothing.stderr) == (0, "")
        assert count_of(nothing.stdout, "generations that are no turns") == "0"
    monkeypatch.setenv("LOQUENT_KEEP_GENERATIONS", "0.0000001")
    for arguments in (("store", "sweep"), ("store", "sweep", "--dry-run")):
        refused = command(*arguments)
        assert refused.exit_code == 1
        assert count_of(refused.stdout, "generations that are no turns") == "0"
        assert "100 generations that are no turns stay" in refused.stderr
        assert "loquent store sweep --force" in refused.stderr
    planned = command("store", "sweep", "--dry-run", "--force")
    assert (planned.exit_code, count_of(planned.stdout, "generations that are no turns")) == (0, "100")
    assert planned.stdout.startswith("would go")
    done = command("store", "sweep", "--force")
    assert (done.exit_code, count_of(done.stdout, "generations that are no turns")) == (0, "100")
    assert done.stdout.lstrip().startswith("gone")
    assert count_of(command("store", "sweep").stdout, "generations that are no turns") == "0"


def test_a_sweep_of_nothing_that_lasts_is_refused(command: Command) -> None:
    done = command("store", "sweep", env={"LOQUENT_STORE": "memory:"})
    assert done.exit_code == 2
    assert "LOQUENT_STORE" in done.stderr


def test_a_file_that_is_no_database_is_said(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "loquent.db").write_text("a letter to a friend" * 100)
    for verb in ("check", "upgrade"):
        done = command("store", verb)
        assert done.exit_code == 2
        assert "not a database" in done.stderr


def test_a_schema_that_a_newer_program_wrote_is_left_alone(command: Command, tmp_path: Path) -> None:
    command("store", "upgrade")
    with closing(sqlite3.connect(tmp_path / "data" / "loquent.db")) as opened:
        opened.execute("UPDATE alembic_version SET version_num = '9999', works_from = NULL")
        opened.commit()
    for arguments in (("generate", "hello"), ("store", "upgrade")):
        done = command(*arguments)
        assert done.exit_code == 2
        assert "a newer Loquent wrote it" in done.stderr
    assert command("store", "check").exit_code == 1
    assert command("doctor", env={"PORT": "0"}).exit_code == 1


def test_a_backup_holds_what_is_written_and_not_yet_in_the_file_itself(command: Command, tmp_path: Path) -> None:
    async def keep_and_back_up(services: Services) -> str:
        kept = await keep(services.store)  # as beside a server that has it open
        done = await asyncio.to_thread(command, "store", "backup", "saved.db")
        assert (done.exit_code, done.stdout[:16]) == (0, "saved.db: sound,")
        shutil.copy(tmp_path / "data" / "loquent.db", tmp_path / "naive.db")
        return kept

    kept = with_services(keep_and_back_up)
    for name, there in (("saved.db", [(kept,)]), ("naive.db", [])):  # what cp has is sound, and empty
        with closing(sqlite3.connect(tmp_path / name)) as opened:
            assert opened.execute("SELECT id FROM generations").fetchall() == there
    assert (tmp_path / "saved.db").stat().st_mode & 0o077 == 0
    (tmp_path / "data" / "loquent.db").unlink()
    (tmp_path / "saved.db").rename(tmp_path / "data" / "loquent.db")
    assert command("store", "check").exit_code == 0
    assert [each.id for each, _ in history(lambda services: ANN)] == [kept]


@pytest.mark.parametrize(
    ("place", "store", "why"),
    [
        ("models.toml", "", "models.toml cannot be written: File exists; name a file that is not there yet"),
        ("none/b.db", "", "none/b.db cannot be written: No such file"),
        ("b.db", "sqlite:///other.db", "other.db is not there"),
        ("b.db", "postgresql://me:hidden@127.0.0.1:1/x", "its own tools back it up"),
        ("b.db", "memory:", "its own tools back it up"),
    ],
)
def test_a_backup_that_cannot_be_is_refused_with_the_reason(
    command: Command, tmp_path: Path, place: str, store: str, why: str
) -> None:
    command("store", "upgrade")
    done = command("store", "backup", place, env={"LOQUENT_STORE": store})
    assert done.exit_code == 2
    assert why in done.stderr
    assert "hidden" not in done.stderr
    assert not (tmp_path / "b.db").exists()
    assert (tmp_path / "models.toml").read_text() == ROWS


def test_no_backup_is_left_of_what_is_damaged(command: Command, tmp_path: Path) -> None:
    command("store", "upgrade")
    file = tmp_path / "data" / "loquent.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))  # all but the first page
    done = command("store", "backup", "b.db")
    assert done.exit_code == 1
    assert "there is no backup" in done.stderr
    assert not (tmp_path / "b.db").exists()


def test_a_copy_brings_records_and_files_and_tells_how_many(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep_one(services: Services) -> str:
        (tmp_path / "file").write_bytes(b"file")
        await services.blobs.put("documents/doc_1a", tmp_path / "file")
        return await keep(services.store)

    kept = with_services(keep_one)
    data = tmp_path / "data"
    old = ("--records", f"sqlite:///{data / 'loquent.db'}", "--files", f"file://{data / 'blobs'}")
    monkeypatch.setenv("LOQUENT_STORE", f"sqlite:///{tmp_path / 'new.db'}")
    monkeypatch.setenv("LOQUENT_BLOBS", f"file://{tmp_path / 'new'}")
    done = command("store", "copy", *old)
    assert (done.exit_code, done.stderr) == (0, "")
    assert {"1 files", "1 contents", "1 generations", "0 users"} <= {each.strip() for each in done.stdout.splitlines()}
    assert [each.id for each, _ in history(lambda services: ANN)] == [kept]
    again = command("store", "copy", *old)
    assert (again.exit_code, "0 generations, and 1 that were here already" in again.stdout) == (0, True)
    with closing(sqlite3.connect(tmp_path / "new.db")) as opened:
        opened.execute("UPDATE generations SET status = 'failed'")
        opened.commit()
    differs = command("store", "copy", *old)
    assert differs.exit_code == 1
    assert "1 generations are here already and say something else" in differs.stderr


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((), "say from where: --records, --files, or both"),
        (("--records", "sqlite:///none.db"), "holds no records of Loquent"),
        (("--records", "oracle://x"), "it takes"),
        (("--files", "file:///none"), "there is no folder /none"),
    ],
)
def test_a_copy_of_nothing_is_refused_and_makes_nothing(
    command: Command, tmp_path: Path, given: tuple[str, ...], why: str
) -> None:
    done = command("store", "copy", *given)
    assert done.exit_code == 2
    assert why in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["models.toml"]


def test_nothing_is_copied_to_where_nothing_lasts(command: Command) -> None:
    done = command("store", "copy", "--records", "sqlite:///data/loquent.db", env={"LOQUENT_STORE": "memory:"})
    assert done.exit_code == 2
    assert "LOQUENT_STORE holds memory" in done.stderr


def test_records_that_are_in_use_are_not_copied(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def copy(services: Services) -> Result:
        monkeypatch.setenv("LOQUENT_STORE", f"sqlite:///{tmp_path / 'new.db'}")
        return await asyncio.to_thread(command, "store", "copy", "--records", services.settings.store_url)

    done = with_services(copy)
    assert done.exit_code == 1
    assert "is in use: stop the servers and workers on it, then copy" in done.stderr
    assert not (tmp_path / "new.db").exists()


def test_administrators_are_made_by_name_and_never_by_themselves(command: Command) -> None:
    for name in ("ann", "bob"):
        command("users", "add", name, "--password-stdin", input=PASSWORD)
    done = command("users", "add", "root", "--admin", "--password-stdin", input=PASSWORD)
    assert done.stdout.endswith("as an administrator\n")

    def roles() -> dict[str, str]:
        listed = (line.split() for line in command("users", "list").stdout.splitlines())
        return {words[-1]: words[-2] for words in listed}

    assert roles() == {"ann": "user", "bob": "user", "root": "admin"}
    assert command("users", "promote", "bob").stdout == "promoted bob\n"
    assert command("users", "demote", "root").stdout == "demoted root\n"
    assert roles() == {"ann": "user", "bob": "admin", "root": "user"}
    assert command("users", "promote", "nobody").exit_code == 1


# --- models -----------------------------------------------------------------------------------------------------------

EMBEDDED = """
[[model]]
name = "small"
engine = "llama"
id = "small.gguf"
context = 8192
source = "{source}"
sha256 = "{sha256}"

[[model]]
name = "large"
engine = "llama"
id = "large.gguf"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that stands for weights, and rows that name it."""
    path = tmp_path / "elsewhere" / "tiny.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF" * 1000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "models.toml").write_text(ROWS + EMBEDDED.format(source=path, sha256=digest))
    return path


def test_the_models_are_listed(command: Command, source: Path) -> None:
    listed = {row["name"]: row for row in map(json.loads, command("models", "list", "--json").stdout.splitlines())}
    assert list(listed) == ["parrot", "extractive", "small", "large"]
    assert listed["parrot"]["price"] == {"input": 1, "output": 2}
    assert listed["parrot"]["default_for"] == ["answers"]
    assert listed["extractive"]["default_for"] == ["summaries"]
    assert (listed["small"]["weights"], listed["parrot"]["weights"]) == ("not here", None)


def test_the_table_of_models_is_whole_in_a_pipe(command: Command, source: Path) -> None:
    shown = command("models", "list").stdout.splitlines()
    names = ["name", "source", "engine", "abilities", "context", "price", "weights", "users", "fallback", "default.for"]
    assert re.fullmatch(rf" *{' +'.join(names)} *", shown[1])
    small = next(line for line in shown if "small" in line)
    assert re.fullmatch(r" *small +settings +llama +chat, text +4,096 +none +not here +all +none *", small)


ADDED = """
[[model]]
name = "org/finch"
engine = "echo"
id = "echo"
abilities = ["chat"]
users = ["ann"]
fallback = ["parrot"]
"""


def test_models_are_added_listed_used_and_removed(command: Command, tmp_path: Path) -> None:
    (tmp_path / "added.toml").write_text(ADDED)
    assert command("models", "add", "added.toml").stdout == "added org/finch\n"
    finch = json.loads(command("models", "list", "--json").stdout.splitlines()[-1])
    assert [finch[name] for name in ("name", "source", "users", "fallback")] == [
        *("org/finch", "added"),
        *(["ann"], ["parrot"]),
    ]
    hidden = command("generate", "--model", "org/finch", "one two")
    assert (hidden.exit_code, "there is no model 'org/finch'" in hidden.stderr) == (1, True)
    command("users", "add", "ann", "--password-stdin", input=PASSWORD)
    assert command("generate", "--model", "org/finch", "--as", "ann", "one two").stdout == "one two\n"
    assert command("models", "add", "added.toml").stderr == "loquent: there is a model 'org/finch' already\n"
    assert command("models", "remove", "org/finch").stdout == "removed org/finch\n"
    assert "org/finch" not in command("models", "list").stdout
    assert command("models", "remove", "parrot").exit_code == 1


def test_one_that_was_added_by_a_left_out_models_name_is_asked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOQUENT_MODELS")
    refused = command("generate", "--model", "smollm2", "one two")
    assert (refused.exit_code, "smollm2 is left out; get it by" in refused.stderr) == (1, True)
    (tmp_path / "added.toml").write_text('[[model]]\nname = "smollm2"\nengine = "echo"\nid = "echo"')
    assert command("models", "add", "added.toml").exit_code == 0
    assert command("generate", "--model", "smollm2", "one two").stdout == "one two\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[model", "is not TOML"),
        ("model = 1", "takes rows"),
        ('[[model]]\nname = "a"\nengine = "openai"\nid = "a"', "needs a url"),
        ('[[model]]\nname = "a"\nengine = "echo"\nid = "a"\nkey_file = "key"', "key_file is for rows of the settings"),
    ],
)
def test_rows_that_cannot_be_added_are_told_of(command: Command, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "added.toml").write_text(text)
    done = command("models", "add", "added.toml")
    assert (done.exit_code, said in done.stderr) == (1, True), done.stderr
    assert len(command("models", "list", "--json").stdout.splitlines()) == 2


def test_the_first_row_with_weights_is_pulled(command: Command, source: Path, tmp_path: Path) -> None:
    done = command("models", "pull")
    path = tmp_path / "data" / "models" / "small.gguf"
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == f"small is at {path} (0.0 MB)"
    assert path.read_bytes() == source.read_bytes()
    row = next(line for line in command("models", "list").stdout.splitlines() if "small" in line)
    assert "not here" not in row
    source.unlink()
    assert command("models", "pull", "small").exit_code == 0  # it is there: its source is not needed
    assert command("models", "pull", "--all").exit_code == 0


def test_what_is_missing_is_pulled_without_a_word_where_nothing_is(
    command: Command, source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "models" / "small.gguf"
    assert command("models", "pull", "--missing").stdout.startswith("small is at")
    done = command("models", "pull", "--missing")
    assert (done.exit_code, done.output) == (0, "")
    path.unlink()
    assert command("models", "pull", "--missing").exit_code == 0
    assert path.read_bytes() == source.read_bytes(), "what was removed comes again"


def test_where_no_row_has_weights_none_are_missing(command: Command) -> None:
    done = command("models", "pull", "--missing")
    assert (done.exit_code, done.output) == (0, "")


def test_weights_from_a_file_say_how_to_use_them(command: Command, source: Path, tmp_path: Path) -> None:
    done = command("models", "pull", source)
    assert (tmp_path / "data" / "models" / "tiny.gguf").read_bytes() == source.read_bytes()
    row = done.stdout.partition("\n\n")[2]
    assert tomllib.loads(row) == {"model": [{"name": "tiny", "engine": "llama", "id": "tiny.gguf"}]}
    command("models", "pull", source, "--file", "other.gguf")
    assert (tmp_path / "data" / "models" / "other.gguf").is_file()


def test_weights_with_another_checksum_are_not_kept(command: Command, source: Path, tmp_path: Path) -> None:
    done = command("models", "pull", source, "--sha256", "0" * 64)
    assert done.exit_code == 1
    assert "not the promised file" in done.stderr
    assert not (tmp_path / "data" / "models" / "tiny.gguf").exists()


@pytest.mark.parametrize(
    ("wanted", "code", "said"),
    [
        ("nobody", 1, "'nobody' is no model with weights, no source and no file; the models are: small, large"),
        ("parrot", 1, "'parrot' is no model with weights"),
        ("large", 2, "model large has no source to pull from"),
        ("pypi:weights==1", 1, "say with --file which file of the package is meant"),
        ("http://models.example/a.gguf", 2, "weights are fetched by https"),
        ("hf:somebody", 2, "is not hf:organisation/repository/file.gguf"),
    ],
)
def test_what_cannot_be_pulled_is_said(wanted: str, code: int, said: str, command: Command, source: Path) -> None:
    done = command("models", "pull", wanted)
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_rows_that_have_weights_a_source_is_asked_for(command: Command) -> None:
    done = command("models", "pull")
    assert done.exit_code == 1
    assert done.stderr.startswith("loquent: no row has weights to pull; give a source")


# --- doctor ----------------------------------------------------------------------------------------------------------


def lines(done: Result, mark: str) -> list[str]:
    """What was said with that mark."""
    return [line[4:] for line in done.stdout.splitlines() if line.startswith(f"  {mark} ")]


def test_a_new_folder_is_healthy_and_stays_empty(command: Command, tmp_path: Path, free_port: int) -> None:
    done = command("doctor", env={"PORT": str(free_port)})
    assert done.exit_code == 0, done.output
    assert lines(done, "✗") == []
    assert not (tmp_path / "data").exists()
    assert any(line.startswith("parrot (echo), a default: answers") for line in lines(done, "✓"))
    assert f"PORT = {free_port}, from environment" in lines(done, "✓")


def test_a_store_in_use_is_healthy(command: Command, free_port: int) -> None:
    command("generate", "hello")
    done = command("doctor", env={"PORT": str(free_port)})
    assert done.exit_code == 0, done.output
    assert any("loquent.db: sound" in line for line in lines(done, "✓"))


def test_secrets_are_hidden(command: Command, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOQUENT_SECRET=" + "s3cret" * 8)
    done = command("doctor", env={"PORT": "0", "LOQUENT_STORE": "memory://ann:hunter2@there/x"})
    assert "s3cret" not in done.output
    assert "hunter2" not in done.output
    assert "LOQUENT_SECRET = (hidden), from .env" in lines(done, "✓")


def test_a_name_that_is_no_setting_is_said(command: Command) -> None:
    unknown = "LOQUENT_MODLE"
    done = command("doctor", env={"PORT": "0", unknown: "x"})
    assert f"{unknown} is set, and is no setting" in lines(done, "!")
    assert "perhaps LOQUENT_MODEL" in done.stdout


def test_a_setting_that_cannot_be_read_is_broken(command: Command) -> None:
    done = command("doctor", env={"LOQUENT_PORT": "everything"})
    assert done.exit_code == 1
    assert lines(done, "✗") == ["LOQUENT_PORT holds 'everything'; it takes a whole number from 0 to 65535"]


def test_a_broken_database_is_broken(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "loquent.db").write_text("a letter to a friend" * 100)
    done = command("doctor", env={"PORT": "0"})
    assert done.exit_code == 1
    assert any("not a database" in line for line in lines(done, "✗"))


def test_a_default_model_that_is_away_is_broken_another_is_not(
    command: Command, tmp_path: Path, free_port: int
) -> None:
    row = f'\n[[model]]\nname = "far"\nengine = "openai"\nid = "far"\nurl = "http://127.0.0.1:{free_port}/v1"\n'
    (tmp_path / "models.toml").write_text(ROWS + row)
    done = command("doctor", env={"PORT": "0"})
    assert done.exit_code == 0
    assert any(line.startswith(f"far (openai), at http://127.0.0.1:{free_port}/v1: ") for line in lines(done, "!"))
    done = command("doctor", env={"PORT": "0", "LOQUENT_MODEL": "far"})
    assert done.exit_code == 1
    assert any(line.startswith(f"far (openai), at http://127.0.0.1:{free_port}/v1: ") for line in lines(done, "✗"))


def test_a_broker_that_is_away_is_named_and_no_end(command: Command, free_port: int) -> None:
    away = f"redis://ann:hunter2@127.0.0.1:{free_port}/0"
    done = command("doctor", env={"PORT": "0", "LOQUENT_QUEUE": away})
    assert done.exit_code == 0
    [said] = [line for line in lines(done, "!") if line.startswith(f"redis://ann:…@127.0.0.1:{free_port}/0: ")]
    assert "the broker does not answer" in said
    assert "hunter2" not in done.output
    assert "→ start it; until then workers find jobs by looking" in done.output
    done = command("doctor", env={"PORT": "0", "LOQUENT_QUEUE": "sqs://?colour=red"})
    assert done.exit_code == 1
    assert any("and not colour" in line for line in lines(done, "✗"))


def test_a_port_in_use_is_broken_but_not_where_loquent_answers_there(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("doctor", env={"PORT": str(taken.getsockname()[1])})
    assert done.exit_code == 1
    assert any("cannot listen on 127.0.0.1" in line for line in lines(done, "✗"))

    class Ours(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status":"healthy","service":"loquent","version":"0"}')

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Ours) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        done = command("doctor", env={"PORT": str(server.server_port)})
        server.shutdown()
        thread.join()
    assert done.exit_code == 0
    assert f"a Loquent answers on 127.0.0.1 port {server.server_port}" in lines(done, "✓")


def test_what_is_open_to_everybody_is_said(command: Command) -> None:
    done = command("doctor", env={"PORT": "0", "HOST": "0.0.0.0", "LOQUENT_ANONYMOUS": "on", "LOG_CONTENT": "on"})
    assert "anybody who reaches 0.0.0.0 is served without an account" in lines(done, "!")
    assert "anybody who reaches 0.0.0.0 can make an account" in lines(done, "!")
    assert "prompts and answers are logged" in lines(done, "!")
