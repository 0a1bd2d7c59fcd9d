"""The image and the set-up for one machine: read by the tools that will read them, and at one with the program."""

from __future__ import annotations

import json
import os
import re
import subprocess
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deploying import DEPLOY, ROOT, known, longest_stop, tool
from loquent.cli.serve import HEADER_SECONDS
from loquent.domain.models import Timeouts
from loquent.settings import Settings, read
from loquent.web.sse import STALLED
from serving import served

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
ENVIRONMENT = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", (DEPLOY / "example.env").read_text(), re.MULTILINE))


# --- the image ----------------------------------------------------------------------------------------------------


def test_the_dockerfile_is_clean() -> None:
    done = tool("hadolint", "--no-color", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_image_is_made_of_the_lock_and_runs_as_nobody_in_particular() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "--require-hashes --only-binary :all: -r requirements/serve.lock" in DOCKERFILE
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["10001:10001"]
    assert json.loads(re.findall(r"^ENTRYPOINT (.+)$", last, re.MULTILINE)[0]) == ["loquent"]
    assert json.loads(re.findall(r"^CMD (.+)$", last, re.MULTILINE)[0]) == ["serve"]
    assert re.findall(r"^STOPSIGNAL (.+)$", last, re.MULTILINE) == ["SIGTERM"]
    assert set(re.findall(r"\b(LOQUENT_[A-Z_]+)=", DOCKERFILE)) <= known()


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    build = DOCKERFILE.rpartition("\nFROM ")[0]
    copied = {source for line in re.findall(r"^COPY (.+)$", build, re.MULTILINE) for source in line.split()[:-1]}
    assert let_in == copied
    assert all((ROOT / each).exists() for each in copied)
    assert not any(fnmatch(secret, each) for secret in (".env", "data", "deploy/.env", ".git") for each in let_in)


def test_the_health_check_tells_a_server_that_answers_from_one_that_does_not(tmp_path: Path) -> None:
    python, *code = json.loads(re.findall(r"CMD (\[.*urlopen.*\])", DOCKERFILE)[0])
    assert python == "python"
    with served(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        assert tool("python", *code, LOQUENT_PORT=port).returncode == 0
        assert tool("python", *code, LOQUENT_PORT="1", LOQUENT_WORKER_PORT=port).returncode == 0
    assert tool("python", *code, LOQUENT_PORT=port).returncode == 1


# --- one machine --------------------------------------------------------------------------------------------------


def compose(**environ: str) -> subprocess.CompletedProcess[str]:
    """What Docker Compose itself makes of the file."""
    nothing = ("--env-file", os.devnull)
    return tool("docker-compose", *nothing, "--file", DEPLOY / "compose.yaml", "config", "--format", "json", **environ)


@cache
def whole() -> dict[str, Any]:
    """The file as Compose reads it, where every secret is set."""
    done = compose(**dict.fromkeys(ENVIRONMENT, "0123456789abcdef" * 2))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("missing", ENVIRONMENT)
def test_nothing_starts_without_a_secret(missing: str) -> None:
    done = compose(**{name: "" if name == missing else "0123456789abcdef" * 2 for name in ENVIRONMENT})
    assert done.returncode != 0
    assert f"{missing} is missing a value: see deploy/example.env" in done.stderr


def test_every_service_is_bounded_hardened_and_of_a_known_version() -> None:
    services = whole()["services"]
    assert {"api-1", "api-2", "worker", "nginx", "postgres", "redis", "s3", "prometheus", "grafana"} == set(services)
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert re.search(r":v?\d", service["image"]), name
        assert not service.get("privileged")
        published = [port["host_ip"] for port in service.get("ports", ())]
        assert set(published) <= {"127.0.0.1"}, name  # the way to elsewhere is opened on purpose
        assert "healthcheck" in service or service["image"].startswith("loquent:"), name  # ours is in the image
    assert services["worker"]["deploy"]["replicas"] == 2
    assert whole()["networks"]["back"]["internal"]


def test_what_compose_mounts_is_there() -> None:
    mounts = [each for service in whole()["services"].values() for each in service.get("volumes", ())]
    sources = [Path(each["source"]) for each in mounts if each["type"] == "bind"]
    assert sources
    assert [source for source in sources if not source.exists()] == []
    assert all(each["read_only"] for each in mounts if each["type"] == "bind")


@pytest.mark.parametrize("name", ["api-1", "api-2", "worker"])
def test_our_settings_in_compose_are_settings(name: str) -> None:
    service = whole()["services"][name]
    environ = service["environment"]
    assert set(environ) <= known()
    settings = read(environ)
    assert settings.store.startswith("postgresql:") and settings.blobs.startswith("s3:")
    assert settings.queue.startswith("redis:") and settings.limiter.startswith("redis:")
    assert settings.queue != settings.cache  # what may never be thrown away, and what may
    assert not settings.takes_anonymous
    assert _seconds(service["stop_grace_period"]) > longest_stop(settings)


def test_redis_keeps_what_it_is_told() -> None:
    script = whole()["services"]["redis"]["command"][-1]
    for line in ("appendonly yes", "maxmemory-policy noeviction", "requirepass"):
        assert line in script


def test_the_balancer_knows_the_replicas_and_they_know_it() -> None:
    services = whole()["services"]
    address = services["nginx"]["networks"]["front"]["ipv4_address"]
    replicas = {name: services[name]["networks"]["front"]["ipv4_address"] for name in ("api-1", "api-2")}
    upstream = re.findall(r"^ +server (\S+):8000\b", (DEPLOY / "nginx/loquent.conf").read_text(), re.MULTILINE)
    assert upstream == list(replicas)
    hosts = dict(re.split("[=:]", line) for line in services["nginx"]["extra_hosts"])
    assert hosts == replicas
    for name in replicas:
        (trusted,) = read(services[name]["environment"]).trusted_proxies
        assert str(trusted) == f"{address}/32"


def test_the_balancers_bounds_leave_room_for_ours() -> None:
    text = (DEPLOY / "nginx/loquent.conf").read_text()
    said = dict(re.findall(r"^ +([a-z_]+) (\d+)[sm]?\b.*;", text, re.MULTILINE))
    assert int(said["client_max_body_size"]) * 2**20 > Settings().max_upload
    assert int(said["proxy_read_timeout"]) > Timeouts().total
    assert int(said["send_timeout"]) > STALLED
    idle = int(re.findall(r"^    keepalive_timeout (\d+)s;", text.partition("map ")[0], re.MULTILINE)[0])
    assert idle < HEADER_SECONDS  # which is also how long a server keeps an idle connection
    assert idle < float(whole()["services"]["api-1"]["environment"]["LOQUENT_STOP_DELAY"])
    assert "non_idempotent" not in " ".join(re.findall(r"^ +proxy_next_upstream (.+);", text, re.MULTILINE))


def _seconds(text: str) -> float:
    return float(re.fullmatch(r"(\d+)s", text)[1])  # type: ignore[index]
