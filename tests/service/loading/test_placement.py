"""Instance groups say where a model runs and with how many threads."""

import pytest

from enginehouse.errors import Error, InvalidInput, NotSupported
from enginehouse.hardware import threads_per_instance
from enginehouse.model_config import config_from_text
from service.loading.placement import MAX_INSTANCES, Placement, placement_from_config

THREADS = "parameters { key: 'intra_op_thread_count' value { string_value: '%s' } }"


def placed(text: str) -> Placement:
    return placement_from_config(config_from_text(text, "m"))


@pytest.mark.parametrize(
    ("text", "on_gpu"),
    [
        ("", [None]),
        ("instance_group { }", [None]),
        ("instance_group { count: 2 kind: KIND_CPU }", [False, False]),
        ("instance_group { kind: KIND_GPU }", [True]),
        ("instance_group [ { gpus: 0 }, { count: 2 } ]", [True, None, None]),
    ],
)
def test_each_instance_has_its_device_in_the_order_of_the_groups(text: str, on_gpu: list[bool | None]) -> None:
    found = placed(text)
    assert found.on_gpu == on_gpu
    assert found.threads == threads_per_instance(len(on_gpu))


@pytest.mark.parametrize(("text", "threads"), [("3", 3), ("0", threads_per_instance(1)), ("", threads_per_instance(1))])
def test_a_model_may_say_how_many_threads_it_wants(text: str, threads: int) -> None:
    assert placed(THREADS % text).threads == threads


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("instance_group { kind: KIND_MODEL }", NotSupported, "kind 3 is not supported"),
        ("instance_group { gpus: [ 1 ] }", NotSupported, r"asks for GPUs \[1\]; only GPU 0"),
        (f"instance_group {{ count: {MAX_INSTANCES + 1} }}", InvalidInput, f"at most {MAX_INSTANCES} are allowed"),
        (THREADS % "-1", NotSupported, "is '-1'; expected 1 or more"),
        (THREADS % "all", NotSupported, "is 'all'; expected 1 or more"),
    ],
)
def test_what_cannot_be_given_is_refused(text: str, kind: type[Error], message: str) -> None:
    with pytest.raises(kind, match=message):
        placed(text)
