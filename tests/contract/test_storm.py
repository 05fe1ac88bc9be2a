"""Models are loaded, unloaded, asked and looked at all at once, by several clients of both transports.

Whatever the order, each reply is one that the protocol knows, and afterwards the server is as if nothing had been.
"""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService, make_identity_model
from tests.contract.conftest import save_model
from tests.contract.test_ensemble import save_ensemble
from tests.contract.test_isolation import wait_until
from tests.service.fake_steps import step_text

MODELS = ("lone", "step", "both")
EACH = 25
STORMS = 8
# From here on everything was used once, and memory that is not given back is a leak.
WARM = 2
# Threads that load and close come as they are needed, and stay.
POOLED_THREADS = 12
CLIENTS = (triton_http, triton_grpc, triton_http, triton_grpc)
ACTIONS = ("infer", "infer", "infer", "infer", "load", "load", "unload", "ready", "index", "statistics", "config")
STATES = {"READY", "LOADING", "UNLOADING", "UNAVAILABLE", None, ""}
# What may be said, by what was asked: texts that begin so, or so behind "in ensemble 'both', ".
GONE = ("Request for unknown model: ", "model 'lone' version 1 was", "ensemble 'both' cannot answer now: ")
REFUSALS = {
    "infer": GONE,
    "load": ("failed to load ",),
    "unload": ("failed to unload ",),
    "ready": GONE,
    "statistics": GONE,
    "config": GONE,
    "index": (),
}
STATUSES = {"400", "404", "503", "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE"}


@dataclass
class Stormer:
    """One client that does one thing after the other, and keeps what it was told."""

    library: ModuleType
    port: int
    seed: int
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)

    def run(self) -> None:
        chance = random.Random(self.seed)
        with self.library.InferenceServerClient(f"127.0.0.1:{self.port}") as client:
            for _ in range(EACH):
                action, model = chance.choice(ACTIONS), chance.choice(MODELS)
                try:
                    getattr(self, action)(client, model, chance)
                except InferenceServerException as refusal:
                    self.note(action, model, refusal)
                else:
                    self.done[action, model] += 1

    def note(self, action: str, model: str, refusal: InferenceServerException) -> None:
        text = (refusal.message() or "").removeprefix("in ensemble 'both', ")
        if refusal.status() not in STATUSES or not text.startswith(REFUSALS[action]):
            self.odd.append(f"{action} {model}: [{refusal.status()}] {text}")

    def infer(self, client: Any, model: str, chance: random.Random) -> None:
        rows = chance.randint(1, 4)
        given = np.full((rows, 3), chance.random(), np.float32)
        tensor = self.library.InferInput("INPUT0", [rows, 3], "FP32")
        tensor.set_data_from_numpy(given)
        answer = client.infer(model, [tensor]).as_numpy("OUTPUT0")
        if answer.tolist() != given.tolist():
            self.odd.append(f"{model} answered {answer} to {given}")

    def load(self, client: Any, model: str, _: random.Random) -> None:
        client.load_model(model)

    def unload(self, client: Any, model: str, chance: random.Random) -> None:
        if chance.random() < 0.5:
            client.unload_model(model, unload_dependents=chance.random() < 0.3)

    def ready(self, client: Any, model: str, _: random.Random) -> None:
        client.is_model_ready(model)

    def statistics(self, client: Any, model: str, chance: random.Random) -> None:
        client.get_inference_statistics(chance.choice([model, ""]))

    def config(self, client: Any, model: str, _: random.Random) -> None:
        client.get_model_config(model)

    def index(self, client: Any, _: str, __: random.Random) -> None:
        told = client.get_model_repository_index()
        rows = told if isinstance(told, list) else [{"name": row.name, "state": row.state} for row in told.models]
        if {row["name"] for row in rows} != set(MODELS) or not {row.get("state") for row in rows} <= STATES:
            self.odd.append(f"the index is {rows}")


@dataclass(frozen=True)
class Size:
    """What a process holds."""

    resident_mib: float
    descriptors: int
    threads: int


def size_of(pid: int) -> Size:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    resident = int(values["VmRSS"].split()[0]) / 1024
    return Size(resident, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(values["Threads"]))


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("storm")
    config = "max_batch_size: 4 dynamic_batching { } instance_group { count: 2 }"
    for name in ("lone", "step"):
        save_model(repository, name, make_identity_model(), config)
    twice = [
        step_text("step", {"INPUT0": "INPUT0"}, {"OUTPUT0": "p"}),
        step_text("step", {"INPUT0": "p"}, {"OUTPUT0": "OUTPUT0"}),
    ]
    save_ensemble(repository, "both", twice, {"INPUT0": ("TYPE_FP32", "3")}, {"OUTPUT0": ("TYPE_FP32", "3")})
    with start_service(repository, "--model-control-mode", "explicit", "--load-model", "*") as running:
        yield running


def storm(service: RunningService, seed: int) -> Counter[tuple[str, str]]:
    """Let all clients loose at once; what they did with success."""
    ports = {triton_http: service.http_port, triton_grpc: service.grpc_port}
    stormers = [Stormer(library, ports[library], 100 * seed + at) for at, library in enumerate(CLIENTS)]
    threads = [threading.Thread(target=stormer.run) for stormer in stormers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a client was not answered"
    assert [text for stormer in stormers for text in stormer.odd] == []
    return sum((stormer.done for stormer in stormers), Counter())


def come_to_rest(client: Any) -> None:
    """Bring every model back, as a client does who finds some gone, and see that all of it is whole."""
    for name in MODELS:
        client.load_model(name)
    rows = client.get_model_repository_index()
    assert {(row["name"], row["version"], row["state"], row.get("reason", "")) for row in rows} == {
        (name, "1", "READY", "") for name in MODELS
    }
    assert client.is_server_ready()


def successes(client: Any) -> dict[str, int]:
    told = client.get_inference_statistics()["model_stats"]
    return {row["name"]: row["inference_stats"]["success"]["count"] for row in told}


def test_no_storm_of_clients_leaves_a_trace(service: RunningService) -> None:
    pid = service.process.pid
    asked: Counter[str] = Counter()
    sizes: list[Size] = []
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        for seed in range(STORMS):
            done = storm(service, seed)
            assert done["infer", "lone"], "nothing was answered: the storm says nothing"
            asked.update({model: count for (action, model), count in done.items() if action == "infer"})
            come_to_rest(client)
            # Each request that was answered is counted once, through all reloads.
            counted = successes(client)
            assert (counted["lone"], counted["both"]) == (asked["lone"], asked["both"])
            sizes.append(size_of(pid))
    # The connections of the clients that left are closed when the server has seen it.
    wait_until(lambda: size_of(pid).descriptors <= sizes[0].descriptors)
    assert sizes[-1].threads <= sizes[0].threads + POOLED_THREADS
    assert sizes[-1].resident_mib < sizes[WARM].resident_mib + 8
