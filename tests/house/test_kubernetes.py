"""The set-up for Kubernetes: made by kubectl, held against Kubernetes' own definitions, and at one with the program."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploying import DEPLOY, ROOT, known, longest_stop, tool
from loquent.domain.errors import Misconfigured
from loquent.settings import read

KUBERNETES = DEPLOY / "kubernetes"
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")


@cache
def rendered() -> list[dict[str, Any]]:
    """The example as kubectl makes it."""
    done = tool("kubectl", "kustomize", KUBERNETES / "overlays/example")
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def made(kind: str) -> dict[str, dict[str, Any]]:
    """All of a kind, by name."""
    return {each["metadata"]["name"]: each for each in rendered() if each["kind"] == kind}


def test_every_object_is_one_that_kubernetes_knows() -> None:
    for each in rendered():
        if each["apiVersion"].startswith("keda.sh/"):
            continue  # checked against KEDA's own definition by hand: it comes with no package
        kubernetes_validate.validate(each, "1.37", strict=True)
    assert len(rendered()) > 10


def test_a_misspelt_field_would_be_seen() -> None:
    wrong = json.loads(json.dumps(made("Deployment")["loquent-api"]))
    wrong["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_what_selects_pods_finds_them() -> None:
    pods = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in made("Deployment").items()}
    selected = {
        **{f"service {name}": each["spec"].get("selector") for name, each in made("Service").items()},
        **{f"budget {n}": each["spec"]["selector"]["matchLabels"] for n, each in made("PodDisruptionBudget").items()},
        **{f"policy {n}": each["spec"]["podSelector"]["matchLabels"] for n, each in made("NetworkPolicy").items()},
        **{f"deployment {n}": each["spec"]["selector"]["matchLabels"] for n, each in made("Deployment").items()},
    }
    found = {
        who: {pod for pod, labels in pods.items() if labels.items() >= selector.items()} if selector else set()
        for who, selector in selected.items()
    }
    assert found == {
        "service loquent-api": {"loquent-api"},
        "service loquent-nowhere": set(),
        "budget loquent-api": {"loquent-api"},
        "budget loquent-worker": {"loquent-worker"},
        "policy loquent": {"loquent-api", "loquent-worker"},
        "deployment loquent-api": {"loquent-api"},
        "deployment loquent-worker": {"loquent-worker"},
    }
    scaled = {each["spec"]["scaleTargetRef"]["name"] for kind in SCALERS for each in made(kind).values()}
    assert scaled == set(pods)


@pytest.mark.parametrize("name", ["loquent-api", "loquent-worker"])
def test_a_pod_can_do_no_harm_and_says_how_it_does(name: str) -> None:
    spec = made("Deployment")[name]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {each["mountPath"] for each in container["volumeMounts"]} == {"/data", "/tmp"}
    assert not spec["automountServiceAccountToken"] and "memory" in container["resources"]["limits"]
    routes = (ROOT / "docs/routes.md").read_text()
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert f"`{container[probe]['httpGet']['path']}`" in routes
    assert container["livenessProbe"]["httpGet"]["path"].endswith("/live")  # no killing for a database that is away
    config, secret = (made(kind) for kind in ("ConfigMap", "Secret"))
    (values,) = (each["data"] for each in config.values())
    environ = {**values, **{each["name"]: each["value"] for each in container["env"]}}
    assert set(environ) | set(next(iter(secret.values()))["data"]) <= known()
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert spec["terminationGracePeriodSeconds"] >= before + longest_stop(read(environ))


def test_the_example_does_not_start_with_the_secret_that_everybody_can_read() -> None:
    text = (KUBERNETES / "overlays/example/secret.env").read_text()
    with pytest.raises(Misconfigured, match="LOQUENT_SECRET"):
        read(dict(re.findall(r"^([A-Z_]+)=(.+)$", text, re.MULTILINE)))


def test_workers_are_scaled_by_a_metric_that_there_is() -> None:
    (trigger,) = made("ScaledObject")["loquent-worker"]["spec"]["triggers"]
    (name,) = set(re.findall(r"\bloquent_\w+", trigger["metadata"]["query"]))
    assert any(f'"{name}"' in path.read_text() for path in (ROOT / "src/loquent/services").glob("*.py"))
    assert "replicas" not in made("Deployment")["loquent-worker"]["spec"]  # it would fight with the autoscaler
