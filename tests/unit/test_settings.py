"""Settings: read from the environment, with one line where a value cannot be used."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from loquent import settings
from loquent.blobs import folder_of
from loquent.cli.listening import bound
from loquent.domain.errors import Misconfigured
from loquent.domain.models import Adapter
from loquent.settings import Settings
from loquent.settings.environment import load_settings
from loquent.wiring import build
from loquent.wiring.rows import made_by_key, model_rows


def test_nothing_set_is_a_working_default() -> None:
    assert settings.read({}) == Settings()
    assert settings.read({}).store_url.startswith("sqlite:///")
    assert settings.read({"PORT": "", "LOQUENT_MODELS": "  "}) == Settings()


def test_every_setting_can_be_set_by_its_name_and_by_each_alias(tmp_path: Path) -> None:
    file = tmp_path / "rows.toml"
    file.touch()
    samples = {
        "port": "9000", "host": "0.0.0.0", "server": "uvicorn", "allowed_hosts": "a.example, b.example",
        "max_body": "5000", "max_upload": "5000", "body_seconds": "2", "stop_seconds": "3", "data_dir": str(tmp_path),
        "store": "memory:", "queue": "local:x", "limiter": "memory:x", "secret": "x" * 32, "algorithm": "hs256",
        "token_minutes": "5", "anonymous": "on", "registration": "off", "password_threads": "3", "models": str(file),
        "models_dir": str(tmp_path), "model": "m", "summary_model": "s", "llama_slots": "2", "llama_threads": "3",
        "llama_context": "512", "openai_api_key": "k", "openai_base_url": "http://x/v1", "openai_model": "o",
        "openai_max_tokens": "7", "openai_temperature": "0.5", "limit_generations": "1/second",
        "limit_summaries": "2/5 minutes", "limit_logins": "3/day", "rate_per_minute": "4", "rate_per_hour": "5",
        "min_text": "6", "max_text": "70", "max_file_text": "800", "job_slots": "9", "lease_seconds": "10",
        "sweep_seconds": "1", "checkpoint_seconds": "2", "max_attempts": "4", "failpoints": "x", "log_level": "debug",
        "log_format": "json", "log_content": "yes", "metrics": "off", "blobs": "file:///x", "image_model": "i",
        "image_model_url": "http://x/i", "document_model": "d", "ml_url": "http://x/m", "limit_messages": "6/minute",
        "limit_sessions": "7/hour", "session_minutes": "8", "max_pixels": "9", "keep_sessions": "10",
        "keep_generations": "11", "keep_uploads": "12", "keep_logs": "13", "sweep_share": "0.5",
        "retention_seconds": "14", "blob_grace_seconds": "15", "trusted_proxies": "10.0.0.0/8, ::1", "db_name": "n",
        "aws_region": "eu-central-1", "aws_key_id": "k", "aws_secret_key": "s", "text_model": "t", "llm_id": "l",
        "debug": "True", "log_levels": "loquent.sql=debug", "disable_loggers": "a, b", "log_file": "off",
        "log_file_size": "2000", "log_files": "3", "cache": "OFF", "cache_seconds": "16", "cache_size": "20000",
        "key_hosts": "MY_KEY=models.example", "llama_memory": "2000", "serve_jobs": "off", "blobs_presign": "on",
        "traces": "off", "traces_endpoint": "http://x:4318", "traces_to": "models.example",
        "workers": "2", "stop_delay": "5", "worker_port": "8001",
        "free_space": "17MB", "max_pending": "18", "max_pending_tenant": "19", "max_pending_caller": "20",
    }  # fmt: skip
    assert set(samples) == {each.name for each in fields(Settings)}
    for each in fields(Settings):
        for name in (each.metadata["env"], *each.metadata["aliases"]):
            if name in settings.WRITTEN:
                continue  # names a backend of its own: see test_env_files.py
            read = getattr(settings.read({name: samples[each.name]}), each.name)
            if each.name == "algorithm":
                assert read == "HS256"
            else:
                assert read != each.default, name


def test_the_native_name_goes_before_its_alias() -> None:
    assert settings.read({"PORT": "1", "LOQUENT_PORT": "2"}).port == 2


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("PORT", "eighty", "a whole number from 0 to 65535"),
        ("PORT", "70000", "a whole number from 0 to 65535"),
        ("PORT", "1" * 30, "a whole number from 0 to 65535"),
        ("LOQUENT_STOP_SECONDS", "nan", "a number from 0 to 3600"),
        ("LOQUENT_SERVER", "apache", "one of granian, uvicorn"),
        (
            "DATABASE_URL",
            "oracle://x",
            "a URL that begins with sqlite: or postgresql: or postgres: or memory: or dynamodb:",
        ),
        ("LOQUENT_MODELS", "/nowhere/models.toml", "the path of a file that exists"),
        ("LOQUENT_DATA_DIR", "/dev/null/x", "a folder, made where it is missing"),
        ("LOG_CONTENT", "maybe", "true or false"),
        (
            "LOQUENT_STORE",
            "mysql://db/x",
            "a URL that begins with sqlite: or postgresql: or postgres: or memory: or dynamodb:",
        ),
        ("LOQUENT_LIMITER", "amqp://x", "a URL that begins with memory: or redis: or rediss:"),
        ("LOQUENT_CACHE", "none", "off, or a URL that begins with memory: or redis: or rediss:"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("LOG_LEVEL", "11", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("DEBUG", "2", "true or false"),
        ("ALGORITHM", "RS256", "one of HS256"),
        ("ALLOWED_HOSTS", "https://x.test", "host names parted by commas; .example.org is all within it, * is any"),
        ("ALLOWED_HOSTS", "*.x.test", "host names parted by commas; .example.org is all within it, * is any"),
        ("DB_NAME", "sqlite:///x", "the name of a database or of its file"),
        ("LOQUENT_TRUSTED_PROXIES", "*", "addresses and networks, like 10.0.0.1, 192.168.0.0/16, fd00::/8"),
        ("LOQUENT_TRUSTED_PROXIES", "proxy", "addresses and networks, like 10.0.0.1, 192.168.0.0/16, fd00::/8"),
        ("LOQUENT_LOG_LEVELS", "x", "loggers with their levels, like loquent.runner=DEBUG, loquent.sql=DEBUG"),
        ("LOQUENT_LOG_LEVELS", "=DEBUG", "loggers with their levels, like loquent.runner=DEBUG, loquent.sql=DEBUG"),
        ("LOQUENT_LIMIT_SUMMARIES", "many", "counts in windows, like 10/minute, 100/hour; or off"),
        ("ALGORITHM", "none", "one of HS256"),
        ("OPENAI_BASE_URL", "ftp://x", "a URL that begins with http:// or https://"),
    ],
)
def test_a_value_that_cannot_be_read_is_one_line_with_name_value_and_what_it_takes(name, value, takes) -> None:
    with pytest.raises(Misconfigured) as refused:
        settings.read({name: value})
    assert refused.value.message == f"{name} holds {value!r}; it takes {takes}"


def test_a_short_secret_is_refused_without_showing_it_and_with_the_way_to_a_good_one() -> None:
    for name in ("LOQUENT_SECRET", "SECRET_KEY", "JWT_SECRET_KEY"):
        with pytest.raises(Misconfigured) as refused:
            settings.read({name: "hunter2hunter2"})
        assert refused.value.message.startswith(f"{name} holds a value of 14 bytes; it takes at least 32 bytes")
        assert "token_urlsafe" in refused.value.message
        assert "hunter2" not in refused.value.message


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(Misconfigured) as refused:
        settings.read({"DATABASE_URL": "mysql://ann:hunter2@db/x"})
    assert "hunter2" not in refused.value.message


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(Misconfigured, match="MIN_TEXT_LENGTH holds 60; it takes at most MAX_TEXT_LENGTH, 55"):
        settings.read({"MIN_TEXT_LENGTH": "60", "MAX_TEXT_LENGTH": "55"})


@pytest.mark.parametrize(
    ("text", "level"),
    [("info", "INFO"), ("Warn", "WARNING"), ("WARNING", "WARNING"), ("fatal", "CRITICAL"), ("10", "DEBUG")],
)
def test_a_level_may_be_written_as_logging_knows_it(text: str, level: str) -> None:
    assert settings.read({"LOG_LEVEL": text}).log_level == level
    assert settings.read({"LOQUENT_LOG_LEVELS": f"a={text}"}).log_levels == (("a", level),)


def test_debug_logs_everything_where_no_level_is_named() -> None:
    levels = [({}, 20), ({"DEBUG": "True"}, 10), ({"DEBUG": "1", "LOG_LEVEL": "error"}, 40), ({"DEBUG": "False"}, 20)]
    assert [settings.read(environ).log_number for environ, _ in levels] == [level for _, level in levels]


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a.test,B.test", ("a.test", "b.test")),
        ("a.test b.test  c.test", ("a.test", "b.test", "c.test")),
        ("['a.test', \".b.test\"]", ("a.test", ".b.test")),
        ("[a.test, b.test]", ("a.test", "b.test")),
        ("[::1], ::1, localhost:8000", ("[::1]", "[::1]", "localhost")),
        ("*", ("*",)),
    ],
)
def test_hosts_are_read_as_django_projects_write_them(text: str, hosts: tuple[str, ...]) -> None:
    assert settings.read({"ALLOWED_HOSTS": text}).host_names == hosts


@pytest.mark.parametrize(
    ("name", "file"), [("", "loquent.db"), ("texts", "texts.db"), ("app.sqlite3", "app.sqlite3"), ("a/b.db", "a/b.db")]
)
def test_a_databases_name_is_a_file_in_the_data_folder(tmp_path: Path, name: str, file: str) -> None:
    environ = {"DB_NAME": name, "LOQUENT_DATA_DIR": str(tmp_path)}
    assert settings.read(environ).store_url == f"sqlite:///{tmp_path / file}"
    assert settings.read({**environ, "DATABASE_URL": "sqlite:///x.db"}).store_url == "sqlite:///x.db"


def test_the_log_file_lies_in_the_data_folder_unless_told(tmp_path: Path) -> None:
    folder = {"LOQUENT_DATA_DIR": str(tmp_path)}
    assert settings.read(folder).log_path == tmp_path / "app.log"
    assert settings.read({**folder, "LOQUENT_LOG_FILE": "x/y.log"}).log_path == Path("x/y.log")
    assert settings.read({**folder, "LOQUENT_LOG_FILE": "OFF"}).log_path is None


def test_keys_for_aws_in_an_env_file_reach_the_library_that_reads_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("AWSAccessKeyId=the id\nAWSSecretKey=the secret\nREGION_NAME=eu-west-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    load_settings({}, tmp_path)
    assert "AWS_ACCESS_KEY_ID" not in os.environ, "only where AWS is asked"
    found = load_settings({"LOQUENT_STORE": "dynamodb://loquent"}, tmp_path)
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]) == ("the id", "the secret")
    assert found.store_url == "dynamodb://loquent?region=eu-west-1"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    load_settings({"AWS_BUCKET_NAME": "uploads"}, tmp_path)
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]) == ("the id", "the secret")
    assert "the secret" not in repr(settings.passed_over({"AWSSecretKey": "the secret"}))


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("s3://bucket", "s3://bucket?region=eu-west-1"),
        ("s3://bucket/x?sse=AES256", "s3://bucket/x?sse=AES256&region=eu-west-1"),
        ("s3://bucket?region=us-east-1", "s3://bucket?region=us-east-1"),
        ("file:///x", "file:///x"),
    ],
)
def test_a_region_that_is_set_goes_into_the_url_of_a_bucket_that_names_none(said: str, url: str) -> None:
    assert settings.read({"LOQUENT_BLOBS": said, "AWS_REGION": "eu-west-1"}).blobs_url == url
    assert settings.read({"LOQUENT_BLOBS": said}).blobs_url == said


def test_a_region_that_is_set_goes_into_the_url_of_sqs_and_of_no_other_queue() -> None:
    for said, url in (("sqs://", "sqs://?region=eu-west-1"), ("redis://there", "redis://there")):
        assert settings.read({"LOQUENT_QUEUE": said, "AWS_REGION": "eu-west-1"}).queue_url == url


def test_the_env_file_is_under_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('PORT=1111\nHOST="0.0.0.0"\n# a comment\nUNKNOWN=$x\n')
    found = load_settings({"PORT": "2222"}, tmp_path)
    assert (found.port, found.host) == (2222, "0.0.0.0")


@pytest.mark.parametrize(
    ("name", "value", "own"),
    [
        ("DEBUG", "*", "LOQUENT_DEBUG"),
        ("LOG_LEVEL", "trace", "LOQUENT_LOG_LEVEL"),
        ("SECRET_KEY", "x", "LOQUENT_SECRET"),
    ],
)
def test_a_variable_that_another_program_may_have_set_is_told_with_our_own(
    tmp_path: Path, name: str, value: str, own: str
) -> None:
    def said(environ: dict[str, str]) -> str:
        with pytest.raises(Misconfigured) as refused:
            load_settings(environ, tmp_path)
        assert refused.value.message.startswith(f"{name} holds ")
        return refused.value.message

    hint = f" (perhaps another program has set it: {own}, which goes before it, sets Loquent's)"
    assert said({name: value}).endswith(hint)
    (tmp_path / ".env").write_text(f"{name}={value}\n")
    assert "another program" not in said({}), "it stands in Loquent's own file"
    assert said({name: f"{value}!"}).endswith(hint), "over that file"
    with pytest.raises(Misconfigured, match=r"LOQUENT_PORT holds 'x'; it takes a whole number from 0 to 65535$"):
        load_settings({"LOQUENT_PORT": "x"}, tmp_path / "elsewhere")


@pytest.mark.parametrize(("name", "value"), [("DEBUG", "*"), ("LOG_LEVEL", "trace")])
def test_our_own_name_goes_before_what_another_program_has_set(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / ".env").write_text("LOQUENT_DEBUG=off\nLOQUENT_LOG_LEVEL=error\nLOQUENT_HOST=127.0.0.1\n")
    found = load_settings({name: value, "HOST": "x86_64-conda-linux-gnu"}, tmp_path)
    assert (found.debug, found.log_level, found.host) == (False, "ERROR", "127.0.0.1")


def test_a_host_that_another_program_has_set_is_told_with_our_own() -> None:
    with pytest.raises(Misconfigured, match=r"cannot listen on 192\.0\.2\.1 port 0: .*LOQUENT_HOST.*other programs"):
        bound("192.0.2.1", 0)


def test_a_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    found = settings.read({"LOQUENT_DATA_DIR": str(tmp_path / "new" / "data"), "LOQUENT_STORE": "memory:"})
    build(found)
    file = found.data_dir / "secret"
    made = file.read_text()
    build(found)
    assert file.read_text() == made
    assert len(made) >= 48
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("short")
    with pytest.raises(Misconfigured, match="remove it"):
        build(found)


def test_anonymous_callers_are_served_on_loopback_only_unless_told() -> None:
    cases = [
        ({}, True),
        ({"HOST": "::1"}, True),
        ({"HOST": "127.0.0.9"}, True),
        ({"HOST": "0.0.0.0"}, False),
        ({"HOST": "192.0.2.1"}, False),
        ({"HOST": "0.0.0.0", "LOQUENT_ANONYMOUS": "on"}, True),
        ({"LOQUENT_ANONYMOUS": "off"}, False),
    ]
    assert [settings.read(environ).takes_anonymous for environ, _ in cases] == [expected for _, expected in cases]


def rows_of(tmp_path: Path, text: str):
    file = tmp_path / "rows.toml"
    file.write_text(text)
    return model_rows(settings.read({"LOQUENT_MODELS": str(file)}))


GOOD = '[[model]]\nname = "a"\nengine = "echo"\nid = "e"\n'
OTHER = GOOD.replace('"a"', '"b"')


def test_a_row_is_read_with_all_that_it_says(tmp_path: Path) -> None:
    row, _ = rows_of(
        tmp_path,
        GOOD + 'abilities = ["chat"]\ncontext = 5\nprice = {input = 0.15, output = 2}\ntimeout = 7\n'
        "defaults = {temperature = 0.2, stop = ['x']}\n"
        'projector = "eyes.gguf"\nadapters = [{file = "a.gguf"}, {file = "b.gguf", scale = 0.5}]\n',
    )
    assert (row.projector, row.adapters) == ("eyes.gguf", (Adapter("a.gguf"), Adapter("b.gguf", 0.5)))
    assert (row.name, row.abilities, row.context, row.timeouts.total) == ("a", {"chat"}, 5, 7)
    assert (row.price.input, row.price.output) == (150_000, 2_000_000)
    assert (row.defaults.temperature, row.defaults.stop) == (0.2, ("x",))


def test_whoever_names_rows_still_has_summaries_that_invent_nothing_until_he_names_a_model_for_them(
    tmp_path: Path,
) -> None:
    assert [row.name for row in rows_of(tmp_path, GOOD)] == ["a", "extractive"]
    own = GOOD + '[[model]]\nname = "extractive"\nengine = "echo"\nid = "e"\n'
    assert [(row.name, row.engine) for row in rows_of(tmp_path, own)] == [("a", "echo"), ("extractive", "echo")]
    named = settings.read({"LOQUENT_MODELS": str(tmp_path / "rows.toml"), "LOQUENT_SUMMARY_MODEL": "a"})
    (tmp_path / "rows.toml").write_text(GOOD)
    assert [row.name for row in model_rows(named)] == ["a"]


def test_a_row_that_a_key_makes_is_known_as_one_that_nobody_chose() -> None:
    key = {"OPENAI_API_KEY": "sk-x", "OPENAI_MODEL": "gpt-x"}
    made, *others = model_rows(settings.read(key))
    assert made.name == "gpt-x"
    assert made_by_key(settings.read(key), made)
    assert not made_by_key(settings.read({**key, "LOQUENT_MODEL": "gpt-x"}), made), "somebody did"
    assert not any(made_by_key(settings.read(key), other) for other in others)
    assert not made_by_key(settings.read({}), made)


def test_a_key_that_a_row_has_makes_no_other_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.toml"
    environ = {"LOQUENT_MODELS": str(file), "OPENAI_API_KEY": "sk-x", "OPENAI_MODEL": "gpt-x"}
    file.write_text(GOOD)
    assert [row.name for row in model_rows(settings.read(environ))] == ["gpt-x", "a", "extractive"]
    file.write_text(GOOD.replace('"echo"', '"openai"') + 'url = "https://x/v1"\nkey_env = "OPENAI_API_KEY"\n')
    assert [row.name for row in model_rows(settings.read(environ))] == ["a", "extractive"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not toml", "not TOML"),
        ("x = 1\n", "rows that begin with"),
        ('[[model]]\nengine = "echo"\nid = "e"\n', "name is missing"),
        (GOOD + 'colour = "red"\n', "no field 'colour'"),
        (GOOD + 'abilities = ["fly"]\n', "not 'fly'"),
        (GOOD + "context = -1\n", "context takes a whole number above zero"),
        (GOOD + "price = {input = -1}\n", "price input"),
        (GOOD + "price = {per_word = 1}\n", "price takes input, output and cached"),
        (GOOD + "defaults = {temprature = 1}\n", "defaults has no 'temprature'"),
        (GOOD + 'url = "file:///etc/passwd"\n', "url takes"),
        (GOOD + GOOD + 'abilities = ["chat"]\n', "rows called 'a' share their asks by weight"),
        (GOOD + 'fallback = ["b"]\n', "fallback names 'b'"),
        (GOOD + 'fallback = ["a"]\n', "fallback names 'a'"),
        (GOOD + 'fallback = "b"\n', "fallback takes a list of names"),
        (
            GOOD + 'fallback = ["b"]\n' + GOOD.replace('"a"', '"b"') + 'abilities = ["chat"]\n',
            "lacks the ability 'text'",
        ),
        (GOOD + 'adapters = "a.gguf"\n', "adapters takes tables like"),
        (GOOD + "adapters = [{scale = 1}]\n", "adapters takes tables like"),
        (GOOD + 'adapters = [{file = "a", weight = 1}]\n', "adapters takes tables like"),
        (GOOD + 'adapters = [{file = "a", scale = "1"}]\n', "a scale from -100 to 100"),
        (GOOD + 'adapters = [{file = "a", scale = nan}]\n', "a scale from -100 to 100"),
        (GOOD + 'adapters = [{file = "a"}, {file = "a", scale = 2}]\n', "adapters names a file twice"),
        (GOOD + "projector = 1\n", "projector takes text"),
        (GOOD + "weight = 0\n", "weight takes a number above zero"),
        (GOOD + "retries = -1\n", "retries takes a whole number"),
        (GOOD + "concurrency = 0.5\n", "concurrency takes a whole number"),
        (GOOD + "timeouts = 5\n", "timeouts takes total, first, idle, connect"),
        (GOOD + "timeouts = {total = true}\n", "timeouts total takes a number above zero"),
        (GOOD + "timeout = 0\n", "timeouts total takes a number above zero"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        rows_of(tmp_path, text)


def test_an_openai_key_makes_a_row_by_itself() -> None:
    found = settings.read({"OPENAI_API_KEY": "sk-x", "OPENAI_MODEL": "gpt-x", "OPENAI_MAX_TOKENS": "9"})
    row = model_rows(found)[0]
    assert (row.name, row.engine, row.key_env, row.defaults.max_tokens) == ("gpt-x", "openai", "OPENAI_API_KEY", 9)
    assert "sk-x" not in repr(row)


def test_a_default_model_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    found = settings.read({"LOQUENT_MODEL": "nope", "LOQUENT_DATA_DIR": str(tmp_path), "LOQUENT_STORE": "memory:"})
    with pytest.raises(Misconfigured, match="LOQUENT_MODEL holds 'nope'"):
        build(found)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000", 1000), ("512MB", 512 << 20), ("1.5 gb", 3 << 29), ("2TB", 2 << 40), ("7B", 7), ("8kb", 8192)],
)
def test_a_size_may_be_in_bytes_or_larger_units(text: str, size: int) -> None:
    assert settings.read({"LOQUENT_LLAMA_MEMORY": text}).llama_memory == size


@pytest.mark.parametrize("text", ["much", "-1", "1XB", "GB", "75%", "1e9"])
def test_what_is_no_size_stops_the_start(text: str) -> None:
    with pytest.raises(Misconfigured, match="LOQUENT_LLAMA_MEMORY"):
        settings.read({"LOQUENT_LLAMA_MEMORY": text})


@pytest.mark.parametrize("name", ["plain", "a#b", "why?", "half%20way"])
def test_uploads_lie_in_the_data_folder_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    found = settings.read({"LOQUENT_DATA_DIR": str(tmp_path / name)})
    assert folder_of(found.blobs_url) == tmp_path / name / "blobs"


@pytest.mark.parametrize("url", ["s3://bucket/x", "file:", "file://elsewhere/x", "file:x", "file:////x"])
def test_a_url_that_names_no_folder_of_this_machine_has_none(url: str) -> None:
    assert folder_of(url) is None
