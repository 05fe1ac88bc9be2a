"""What the server says about its models is what is so."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from service import describe
from service.http.render import json_from_message
from service.registry import READY, UNAVAILABLE, Registry
from tests.service.conftest import Bench, MakeBench, make_request


def test_metadata_has_full_shapes_and_all_versions(bench: MakeBench) -> None:
    answer = describe.model_metadata(bench().model, [1, 3])
    assert (answer.name, list(answer.versions), answer.platform) == ("m", ["1", "3"], "onnxruntime_onnx")
    assert [(entry.name, entry.datatype, list(entry.shape)) for entry in answer.inputs] == [("x", "FP32", [-1, 2])]
    assert [entry.name for entry in answer.outputs] == ["y"]


def test_statistics_tell_requests_rows_batches_and_their_times(bench: MakeBench) -> None:
    one: Bench = bench("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 500000 }")
    for key, rows in (("a", 1), ("b", 2), ("c", 4), ("bad", 9)):
        one.ask(key, make_request([1] * rows))
    one.clock.advance(1)
    answer = describe.model_statistics(one.model)
    assert (answer.name, answer.version) == ("m", "1")
    assert (answer.inference_count, answer.execution_count) == (7, 2)
    assert answer.inference_stats.success.count == 3
    assert answer.inference_stats.fail.count == 1
    assert answer.inference_stats.queue.count == 3
    assert answer.inference_stats.HasField("cache_hit")
    assert [(entry.batch_size, entry.compute_infer.count) for entry in answer.batch_stats] == [(3, 1), (4, 1)]
    assert answer.batch_stats[0].compute_infer.ns > 0
    assert answer.last_inference > 10**12


def test_responses_of_a_decoupled_model_are_told_by_their_place_and_both_forms_say_the_same(bench: MakeBench) -> None:
    model = bench().model
    responses = model.statistics.responses
    responses.count(0, "success", 2.0, 0.5)
    responses.count(1, "empty_response", 0.25)
    answer = describe.model_statistics(model)
    told = json_from_message(answer)["response_stats"]
    nothing = {"count": 0, "ns": 0}
    assert told["0"] == {
        "compute_infer": {"count": 1, "ns": 2 * 10**9},
        "compute_output": {"count": 1, "ns": 5 * 10**8},
        "success": {"count": 1, "ns": 25 * 10**8},
        "fail": nothing,
        "empty_response": nothing,
        "cancel": nothing,
    }
    assert told["1"]["empty_response"] == {"count": 1, "ns": 25 * 10**7}
    by_protobuf = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    # The only difference: protobuf's own JSON writes numbers of 64 bits as text.
    assert as_numbers(by_protobuf) == as_numbers(json_from_message(answer))


def as_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_numbers(item) for item in value]
    return int(value) if isinstance(value, str) and value.isdigit() else value


@pytest.mark.parametrize("only_ready", [False, True])
def test_the_index_has_a_row_for_each_version_and_each_model_never_asked_for(only_ready: bool) -> None:
    registry = Registry()
    registry.set_state("b", 10, READY, "degraded: x")
    registry.set_state("b", 9, UNAVAILABLE, "broken")
    registry.set_state("removed", 1, READY)
    answer = describe.repository_index(registry, ["c", "b"], only_ready)
    rows = [(row.name, row.version, row.state, row.reason) for row in answer.models]
    expected = [
        ("b", "9", UNAVAILABLE, "broken"),
        ("b", "10", READY, "degraded: x"),
        ("c", "", "", ""),
        ("removed", "1", READY, ""),
    ]
    assert rows == [row for row in expected if row[2] == READY or not only_ready]
