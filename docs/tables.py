"""The tables of the documentation that follow from the code: `python -m docs.tables` writes them, a test compares.

A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from enginehouse.config_fields import FIELDS, PARAMETERS
from enginehouse.evidence import EngineRecord, GoldenTolerance
from enginehouse.fake_engine import FakeEngine
from enginehouse.proto.grpc_service_pb2 import DESCRIPTOR
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.clock import FakeClock
from service.grpc.options import GrpcOptions
from service.grpc.servicer import SERVICE_NAME, InferenceServicer
from service.http.application import create_application
from service.loaded import LoadedVersion
from service.loading.assembly import Surroundings, serve_version
from service.metrics.cpu_meter import CpuReading
from service.metrics.gpu_meter import GpuReading
from service.metrics.machine_metrics import cpu_metrics, gpu_metrics
from service.metrics.metrics import ServerMetrics
from service.metrics.metrics_options import MetricsOptions
from service.registry import Registry
from service.server import Identity, InferenceServer
from service.settings import Settings
from service.status import STATUS
from service.triton_flags import TRITON_FLAGS, Flag

FOLDER = Path(__file__).parent
DOCUMENTS = ("operations.md", "protocol.md", "triton.md")
_BLOCK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def flags() -> str:
    """Every flag of `python -m service`."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else _default(field.default)
        rows.append((f"`--{name.replace('_', '-')}`", default, field.description or ""))
    return _table(("flag", "default", "what it is"), rows)


def metrics() -> str:
    """Every metric of a server that serves a model."""
    rows = [
        (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text)
        for name, kind, labels, text in _metric_families()
    ]
    return _table(("metric", "type", "labels", "what it counts"), rows)


def routes() -> str:
    """Every route of the HTTP application."""
    paths: dict[str, dict[str, Any]] = create_application(_server(), str, 1).openapi()["paths"]
    rows = [
        (f"`{method.upper()} {path}`", operation["summary"])
        for path, operations in paths.items()
        for method, operation in operations.items()
    ]
    return _table(("route", "what it tells or does"), rows)


def rpcs() -> str:
    """Every call of the gRPC service, and whether it is there."""
    handlers = InferenceServicer(_server(), GrpcOptions()).handlers()
    (service,) = DESCRIPTOR.services_by_name.values()
    rows = []
    for method in service.methods:
        call = type("Call", (), {"method": f"/{SERVICE_NAME}/{method.name}"})
        rows.append((f"`{method.name}`", "yes" if handlers.service(call) else "`UNIMPLEMENTED`"))
    return _table(("call", "answered"), rows)


def errors() -> str:
    """What a client sees of each error."""
    rows = [
        (f"`{kind.__name__}`", str(status.http), f"`{status.grpc.name}`", f"`{status.failure_reason}`", _meaning(kind))
        for kind, status in STATUS.items()
    ]
    return _table(("error", "HTTP", "gRPC", "counted as", "meaning"), rows)


def configuration() -> str:
    """Every field of a model configuration, and what becomes of it."""
    rows = [(f"`{path}`", field.standing, field.note) for path, field in FIELDS.items()]
    return _table(("field", "is", "note"), rows)


def parameters() -> str:
    """Every key of a configuration's `parameters` that a backend of Triton reads, and what becomes of it."""
    rows = [
        (backend, f"`{key}`", field.standing, field.note)
        for backend, table in PARAMETERS.items()
        for key, field in table.items()
    ]
    return _table(("backend", "key", "is", "note"), rows)


def triton_flags() -> str:
    """Every flag of Triton's server, and what becomes of it."""
    rows = [(f"`--{name}`", flag.standing, _with_harmless(flag)) for name, flag in TRITON_FLAGS.items()]
    return _table(("flag", "is", "note"), rows)


def _with_harmless(flag: Flag) -> str:
    harmless = [f"`{value}`" for value in flag.harmless[:1] if value]
    return f"{flag.note} ({harmless[0]} is accepted)" if harmless else flag.note


TABLES: dict[str, Callable[[], str]] = {
    "flags": flags,
    "metrics": metrics,
    "routes": routes,
    "rpcs": rpcs,
    "errors": errors,
    "configuration": configuration,
    "parameters": parameters,
    "triton_flags": triton_flags,
}


def with_tables(text: str) -> str:
    """A document with each of its tables as the code has it now."""
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def main() -> None:
    """Write the tables into the documents."""
    for name in DOCUMENTS:
        path = FOLDER / name
        path.write_text(with_tables(path.read_text()))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _default(value: object) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value not in ((), "") else "none"


def _meaning(kind: type[Exception]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _metric_families() -> list[tuple[str, str, list[str], str]]:
    """Name, type, labels and help of each family that is ours, read from what Prometheus would read."""
    families: list[tuple[str, str, list[str], str]] = []
    help_text = ""
    for line in _exposition().splitlines():
        if line.startswith("# HELP "):
            help_text = line.split(" ", 3)[3]
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            families.append((name, kind, [], help_text))
        else:
            labels = families[-1][2]
            labels += [label for label in re.findall(r'(\w+)="', line) if label not in (*labels, "le")]
    return [family for family in families if not family[0].startswith("process_")]


def _exposition() -> str:
    """Every metric there may be: of a model that does nothing, whose answers are kept, on a machine with a GPU."""
    config = ModelConfig(name="any")
    config.response_cache.enable = True
    config.model_transaction_policy.decoupled = True
    engine = FakeEngine((), (), lambda feeds: feeds)
    record = EngineRecord(
        file="any", platform="any", provider="", precision="any", role="chosen", tolerance=GoldenTolerance(original={})
    )
    loaded = LoadedVersion(config, 1, Path(), [engine], 0.0, records=[record], calibrated={"any": (0.0, 1.0)})
    options = MetricsOptions(has_histograms=True, has_summaries=True)
    model = serve_version(loaded, Surroundings(FakeClock(), has_response_cache=True, metrics=options))
    registry = Registry()
    registry.replace("any", [model])
    try:
        return ServerMetrics(registry, options, _machine).render()
    finally:
        model.close()


def _machine() -> list[Metric]:
    gpu = GpuReading("any", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return [*cpu_metrics(CpuReading(0.0, 0, 0)), *gpu_metrics([gpu])]


def _server() -> Any:
    """A server that can be described and asked nothing."""
    lifecycle: Any = None
    return InferenceServer(Registry(), lifecycle, FakeClock(), Identity("any", "0"), is_strict=True, may_load=False)


if __name__ == "__main__":
    main()
