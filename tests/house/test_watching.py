"""Alerts, dashboard and the guide to both agree with what a served Loquent exports, and the alerts fire as they say."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from programs import program
from serving import served, worker_of

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES, TESTS = DEPLOY / "prometheus" / "alerts.yml", DEPLOY / "prometheus" / "alerts_test.yml"
GUIDE = (ROOT / "docs" / "how-to" / "watch.md").read_text()
DASHBOARD = json.loads((DEPLOY / "grafana" / "loquent.json").read_text())
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ASKED = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUICK = {"LOQUENT_SWEEP_SECONDS": "0.2"}
NAME = re.compile(r"\b(?:loquent|process)_[a-z_]+\b")
OF_HISTOGRAMS = ("_bucket", "_sum", "_count")
ROWS = ["Traffic", "Latency", "Tokens and cost", "Engines", "Jobs", "Stores and limits", "Process"]


def promtool(*arguments: str | Path, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool"), *arguments], input=said, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The pages of a server and of a worker beside it, each after a job."""
    folder = tmp_path_factory.mktemp("watched")
    with (
        served(folder, LOQUENT_SERVE_JOBS="off") as server,
        worker_of(folder, **QUICK) as worker,
        httpx2.Client() as client,
    ):
        asked = client.post(f"{server.url}/api/v1/generations", json={"prompt": "one", "background": True})
        assert asked.status_code == 202
        until = time.monotonic() + 30
        while client.get(f"{server.url}{asked.headers['location']}").json()["status"] != "completed":
            assert time.monotonic() < until, worker.log.read_text()
            time.sleep(0.05)
        yield {url: client.get(f"{url}/metrics").text for url in (server.url, worker.url)}


@pytest.fixture(scope="module")
def exported(pages: dict[str, str]) -> set[str]:
    """The families of both pages, by the names that their samples go by."""
    families = [family for page in pages.values() for family in text_string_to_metric_families(page)]
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families} - created(
        families
    )


def created(families: list[Any]) -> set[str]:
    """When the library's own counters began, which it tells beside them."""
    return {family.name for family in families if family.name.endswith("_created")}


def family(name: str, exported: set[str]) -> str:
    """The family that a sample of that name belongs to."""
    short = next((name.removesuffix(end) for end in OF_HISTOGRAMS if name.endswith(end)), name)
    return short if short in exported else name


def named(text: str, exported: set[str]) -> set[str]:
    return {family(name, exported) for name in NAME.findall(text)}


def test_every_figure_is_described_and_named_as_prometheus_wants(pages: dict[str, str]) -> None:
    for page in pages.values():
        families = list(text_string_to_metric_families(page))
        assert [
            each.name for each in families if len(each.documentation) < 10 and each.name.startswith("loquent")
        ] == []
        plain = "".join(line for line in page.splitlines(keepends=True) if "_created" not in line)
        checked = promtool("check", "metrics", said=plain)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_alerts_and_panels_ask_for_what_is_exported(exported: set[str]) -> None:
    asked = named(" ".join([*ASKED, *(rule["expr"] for rule in ALERTS)]), exported)
    assert asked - exported == set()
    assert len(asked) > 30


def test_the_dashboard_shows_every_figure(exported: set[str]) -> None:
    ours = {name for name in exported if name.startswith("loquent_")}
    assert ours - named(" ".join(ASKED), exported) == set()


def test_the_guide_tells_of_every_figure_and_of_no_other(exported: set[str]) -> None:
    told = set(re.findall(r"`(loquent_[a-z_]+)`", GUIDE))
    assert told == {name for name in exported if name.startswith("loquent_")}


def test_the_guide_tells_of_every_alert_and_of_no_other() -> None:
    assert set(re.findall(r"\bLoquent[A-Z]\w+", GUIDE)) == {rule["alert"] for rule in ALERTS}
    pages = {rule["alert"] for rule in ALERTS if rule["labels"]["severity"] == "page"}
    assert set(re.findall(r"\b(Loquent[A-Z]\w+) \(page\)", GUIDE)) == pages


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in ALERTS:
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert len(rule["annotations"]["description"]) > 80, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert checked.returncode == 0, checked.stderr


def test_every_alert_fires_where_it_should_and_not_just_below() -> None:
    tests = {each["name"]: each["promql_expr_test"] for each in yaml.safe_load(TESTS.read_text())["tests"]}
    assert set(tests) == {rule["alert"] for rule in ALERTS}
    for name, (quiet, firing) in tests.items():
        assert name in quiet["expr"] and name in firing["expr"]
        assert "exp_samples" not in quiet and name in firing["exp_samples"][0]["labels"]
    done = promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_with_another_bound_does_not_pass(tmp_path: Path) -> None:
    rules = RULES.read_text()
    (tmp_path / TESTS.name).write_text(
        re.sub(r"(?ms)^  # (?!One of two is enough).*?(?=^  #|\Z)", "", TESTS.read_text())
    )
    for text, passes in ((rules, True), (rules.replace("== 1)\n        for: 1m", "== 1)\n        for: 9m"), False)):
        (tmp_path / RULES.name).write_text(text)
        assert (promtool("test", "rules", tmp_path / TESTS.name).returncode == 0) is passes


def test_prometheus_takes_its_configuration_and_finds_the_alerts() -> None:
    checked = promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    assert f"SUCCESS: {len(ALERTS)} rules found" in checked.stdout


def test_every_panel_asks_something_that_prometheus_understands(tmp_path: Path) -> None:
    plain = [expr.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*") for expr in ASKED]
    assert [expr for expr in plain if "$" in expr] == []
    file = tmp_path / "asked.yml"
    for more, is_sound in (([], True), (["sum(rate(x[5m])"], False)):
        rules = [{"record": f"asked_{number}", "expr": expr} for number, expr in enumerate([*plain, *more])]
        file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
        assert (promtool("check", "rules", "--lint=none", file).returncode == 0) is is_sound


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == ROWS
    assert len({panel["title"] for panel in DASHBOARD["panels"]}) == len(ids)
    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    for panel in PANELS:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"}
    assert used == set(variables)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(one[at] < other[at] + other[size] and other[at] < one[at] + one[size] for at, size in ("xw", "yh"))


def test_grafana_is_told_of_prometheus_and_of_the_dashboard() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "loquent.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    [provider] = yaml.safe_load((folder / "dashboards" / "loquent.yml").read_text())["providers"]
    assert provider["options"]["path"] in GUIDE
