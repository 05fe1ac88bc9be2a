"""The chart: rendered, linted, checked against the schemas of Kubernetes, and its flags and probes tried for real."""

import itertools
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fastapi import FastAPI
from pydantic_settings import CliApp

from service.clock import LoopClock
from service.http.application import create_application
from service.metrics.metrics import ServerMetrics
from service.registry import Registry
from service.settings import Settings

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm" / "enginehouse"
KUBERNETES_VERSIONS = ("1.30", kubernetes_validate.latest_version())

EVERYTHING: dict[str, Any] = {
    "replicaCount": 3,
    "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "registry"}]},
    "server": {
        "id": "triton",
        "modelControlMode": "explicit",
        "loadModels": ["digits", "digits_mlp"],
        "strictReadiness": False,
        "drainDelaySeconds": 2.5,
        "exitTimeoutSeconds": 10,
        "logLevel": "debug",
    },
    "modelRepository": {"source": "claim", "claim": {"storageClassName": "fast", "accessModes": ["ReadWriteMany"]}},
    "initContainers": [
        {"name": "models", "image": "models:1", "volumeMounts": [{"name": "models", "mountPath": "/m"}]}
    ],
    "service": {"headless": True, "httpPort": 80, "annotations": {"a": "b"}},
    "autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": 70, "targetQueueDepth": 4.5},
    "podDisruptionBudget": {"maxUnavailable": "25%"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "serviceAccount": {"name": "reader", "annotations": {"a": "b"}},
    "networkPolicy": {
        "enabled": True,
        "from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
        "metricsFrom": [{"namespaceSelector": {}}],
        "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
    },
    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "vision"},
    "nodeSelector": {"gpu": "true"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    "priorityClassName": "serving",
    "runtimeClassName": "nvidia",
}

# The operator's own schema is no part of Kubernetes; these are the fields of it that the chart may use.
SERVICE_MONITOR_SPEC = {"selector", "namespaceSelector", "endpoints"}
SERVICE_MONITOR_ENDPOINT = {"port", "path", "interval"}

Documents = dict[str, dict[str, Any]]


class Refused(Exception):
    """What Helm says of values that do not fit the chart."""


def ask_helm(question: str, values: dict[str, Any] | None) -> dict[str, Any]:
    """Ask in a process of its own; `helm_process.py` says why."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "helm_process.py")],
        input=json.dumps({"question": question, "values": values}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    if "refused" in answer:
        raise Refused(answer["refused"])
    return answer


def render(values: dict[str, Any] | None = None) -> Documents:
    """Every object by its kind; the chart makes one of each."""
    documents = [
        document
        for name, text in ask_helm("render", values).items()
        if not name.endswith(".txt")
        for document in yaml.safe_load_all(text)
        if document
    ]
    return {document["kind"]: document for document in documents}


def pod(documents: Documents) -> dict[str, Any]:
    spec: dict[str, Any] = documents["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(documents: Documents) -> dict[str, Any]:
    found: dict[str, Any] = pod(documents)["containers"][0]
    return found


def settings_of(documents: Documents) -> Settings:
    return CliApp.run(Settings, cli_args=container(documents)["args"])


@pytest.mark.parametrize("values", [None, EVERYTHING], ids=["defaults", "everything"])
def test_lint_finds_nothing_that_matters(values: dict[str, Any] | None) -> None:
    report = ask_helm("lint", values)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("values", [None, EVERYTHING], ids=["defaults", "everything"])
def test_every_object_fits_the_strict_schema_of_kubernetes(values: dict[str, Any] | None, version: str) -> None:
    documents = render(values)
    documents.pop("ServiceMonitor", None)
    for document in documents.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_defaults_make_only_what_every_cluster_can_hold() -> None:
    assert set(render()) == {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"}


def test_everything_switched_on_makes_everything() -> None:
    optional = {"HorizontalPodAutoscaler", "ServiceMonitor", "NetworkPolicy", "PersistentVolumeClaim"}
    assert set(render(EVERYTHING)) == set(render()) | optional


def test_the_service_monitor_scrapes_the_named_port() -> None:
    documents = render(EVERYTHING)
    spec = documents["ServiceMonitor"]["spec"]
    assert set(spec) <= SERVICE_MONITOR_SPEC
    (endpoint,) = spec["endpoints"]
    assert set(endpoint) <= SERVICE_MONITOR_ENDPOINT
    assert endpoint["port"] in [port["name"] for port in documents["Service"]["spec"]["ports"]]
    assert spec["selector"]["matchLabels"].items() <= documents["Service"]["metadata"]["labels"].items()
    assert documents["ServiceMonitor"]["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 2},
        {"server": {"httpPort": 80}},
        {"modelRepository": {"claim": {"sise": "1Gi"}}},
        {"server": {"modelControlMode": "poll"}},
        {"replicaCount": "two"},
        {"image": {"digest": "latest"}},
    ],
    ids=str,
)
def test_a_value_that_is_unknown_or_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        render(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"autoscaling": {"enabled": True}}, "targetQueueDepth"),
        ({"autoscaling": {"enabled": True, "targetQueueDepth": 1, "minReplicas": 9}}, "maxReplicas"),
        ({"modelRepository": {"source": "existingClaim"}}, "must name the claim"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_a_reason(values: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        render(values)


def test_every_value_says_how_to_choose_it() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    explained_as_a_whole = {"podSecurityContext", "securityContext", "resources"}
    section = ""
    for before, line in itertools.pairwise(lines):
        name, _, value = line.strip().partition(":")
        if not name or name.startswith("#"):
            continue
        section = section if line.startswith(" ") else name
        if value and section not in explained_as_a_whole:
            assert before.strip().startswith("#"), f"no comment above: {line}"


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(node: dict[str, Any], default: Any, path: str) -> None:
        if "properties" not in node:
            return
        assert node["additionalProperties"] is False, path
        assert set(node["properties"]) - {"global"} == set(default), path
        for name in default:
            compare(node["properties"][name], default[name], f"{path}.{name}")

    compare(schema, values, "values")


def test_every_flag_is_one_that_the_service_accepts() -> None:
    documents = render(EVERYTHING)
    settings = settings_of(documents)
    assert settings.id == "triton"
    assert settings.load_model == ("digits", "digits_mlp")
    assert settings.strict_readiness is False
    assert settings.drain_delay_secs == 2.5
    assert settings.model_repository == (container(documents)["volumeMounts"][0]["mountPath"],)


def test_flags_say_what_the_service_would_do_anyway() -> None:
    settings = settings_of(render())
    told = ["--model-repository=/models", "--drain-delay-secs=5"]
    told += [f"--{kind}-address=0.0.0.0" for kind in ("http", "grpc", "metrics")]
    expected = CliApp.run(Settings, cli_args=told)
    assert settings == expected


def test_the_grace_period_outlasts_the_end_of_the_service() -> None:
    for values in (None, EVERYTHING):
        documents = render(values)
        settings = settings_of(documents)
        longest = settings.drain_delay_secs + 2 * settings.exit_timeout_secs
        assert pod(documents)["terminationGracePeriodSeconds"] > longest


def test_ports_are_the_ones_that_the_service_listens_on() -> None:
    documents = render(EVERYTHING)
    settings = settings_of(documents)
    listening = {"http": settings.http_port, "grpc": settings.grpc_port, "metrics": settings.metrics_port}
    assert {port["name"]: port["containerPort"] for port in container(documents)["ports"]} == listening
    ports = documents["Service"]["spec"]["ports"]
    assert [port["targetPort"] for port in ports] == ["http", "grpc", "metrics"]
    assert ports[0]["port"] == 80


def test_selectors_find_the_pods() -> None:
    documents = render(EVERYTHING)
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        documents["Deployment"]["spec"]["selector"]["matchLabels"],
        documents["Service"]["spec"]["selector"],
        documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()


def test_the_pod_runs_without_rights() -> None:
    documents = render()
    assert pod(documents)["securityContext"]["runAsNonRoot"] is True
    assert pod(documents)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(documents)["automountServiceAccountToken"] is False
    assert container(documents)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert f"USER {pod(documents)['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()


def test_models_are_mounted_read_only_from_each_source() -> None:
    sources: dict[str, dict[str, Any]] = {
        "emptyDir": {"emptyDir": {}},
        "existingClaim": {"persistentVolumeClaim": {"claimName": "theirs"}},
        "claim": {"persistentVolumeClaim": {"claimName": "demo-enginehouse-models"}},
    }
    for source, expected in sources.items():
        documents = render({"modelRepository": {"source": source, "existingClaim": "theirs"}})
        assert pod(documents)["volumes"][0] == {"name": "models", **expected}
        assert container(documents)["volumeMounts"][0]["readOnly"] is True
        if source == "claim":
            assert documents["PersistentVolumeClaim"]["metadata"]["name"] == "demo-enginehouse-models"


def test_the_queue_scales_the_pods() -> None:
    documents = render(EVERYTHING)
    scaler = documents["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == documents["Deployment"]["metadata"]["name"]
    assert "replicas" not in documents["Deployment"]["spec"]
    metric = scaler["metrics"][0]["pods"]
    assert metric["target"] == {"type": "AverageValue", "averageValue": "4.5"}
    assert f"# TYPE {metric['metric']['name']} gauge" in ServerMetrics(Registry()).render()


def routes(app: FastAPI) -> set[str]:
    return set(app.openapi()["paths"])


def test_probes_ask_what_the_service_answers() -> None:
    class Described:
        """As much of a server as the routes need to be made."""

        clock = LoopClock

        def server_metadata(self) -> Any:
            return type("Metadata", (), {"version": "0"})

    known = routes(create_application(Described(), str, 1))  # type: ignore[arg-type]
    probed = container(render())
    paths = {name: probed[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert set(paths.values()) <= known
    assert paths["readinessProbe"] != paths["livenessProbe"]
    assert all(probed[name]["httpGet"]["port"] == "http" for name in paths)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            code: int = answer.status
            return code
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code


@pytest.fixture
def chart_flags() -> list[str]:
    """The flags of the chart, but on a free port of the loopback, with a short end."""
    documents = render({"server": {"drainDelaySeconds": 1, "exitTimeoutSeconds": 2}})
    skipped = ("--model-repository", "--http-address", "--grpc-address", "--metrics-address")
    ports = ("--http-port", "--grpc-port", "--metrics-port")
    return [flag for flag in container(documents)["args"] if not flag.startswith(skipped + ports)]


def test_probes_follow_the_life_of_a_real_server(
    start_service: Callable[..., AbstractContextManager[Any]], chart_flags: list[str], tmp_path: Path
) -> None:
    probed = container(render())
    ready, live, startup = (
        probed[name]["httpGet"]["path"] for name in ("readinessProbe", "livenessProbe", "startupProbe")
    )
    with start_service(tmp_path, *chart_flags) as service:
        assert [status(service.url + path) for path in (startup, live, ready)] == [200, 200, 200]
        told = time.monotonic()
        service.process.terminate()
        while status(service.url + ready) == 200:
            assert time.monotonic() - told < 1, "still ready at the end of the drain delay"
        assert status(service.url + live) == 200
        assert service.stop() == 0
        assert time.monotonic() - told >= 1


def test_the_links_that_kubernetes_adds_would_keep_the_service_from_starting() -> None:
    link = {"ENGINEHOUSE_SERVICE_HOST": "10.0.0.1"}
    done = subprocess.run([sys.executable, "-m", "service"], cwd=ROOT, env=link, capture_output=True, text=True)
    assert done.returncode == 2
    assert "ENGINEHOUSE_SERVICE_HOST" in done.stderr
    assert pod(render())["enableServiceLinks"] is False


def test_the_notes_tell_commands_that_fit_the_release() -> None:
    notes = ask_helm("render", {"service": {"httpPort": 80}})
    text = notes["enginehouse/templates/NOTES.txt"]
    assert "port-forward service/demo-enginehouse 8000:80" in text
    assert "curl -s http://127.0.0.1:8000/v2/models" in text
    assert "which is EMPTY" in text
