"""The whole way from a trial to its graph, on a small classifier."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import named_graph
from optimizer.graph.run import run_graph
from optimizer.make import NO_DATA, CalibrationRows, Made, Workshop
from optimizer.trial import Trial
from tests.optimizer.conftest import small_classifier, small_rows

INT8 = Trial(precision="int8", scheme="u8s8")
BATCHES = tuple({"x": small_rows(16, seed)} for seed in range(4))


class CountedRows:
    """A stream that knows how often it was opened."""

    def __init__(self) -> None:
        self.opened = 0

    def read(self) -> Iterator[dict[str, Array]]:
        self.opened += 1
        return iter(BATCHES)


@pytest.fixture
def rows() -> CountedRows:
    return CountedRows()


@pytest.fixture
def workshop(small_graph: Graph, rows: CountedRows, tmp_path: Path) -> Workshop:
    return Workshop(named_graph(small_graph), CalibrationRows(rows.read, 64, BATCHES), tmp_path, None)


def made(workshop: Workshop, trial: Trial) -> Made:
    found = workshop.make(trial)
    assert isinstance(found, Made), found
    return found


def operators(graph: Graph) -> set[str]:
    return {node.op_type for node in graph.model.graph.node}


def test_a_trial_that_lowers_nothing_is_the_graph_itself(workshop: Workshop) -> None:
    assert made(workshop, Trial()).graph is workshop.graph


def test_openvino_s_half_precisions_leave_the_graph_as_it_is(workshop: Workshop) -> None:
    assert made(workshop, Trial(engine="openvino", precision="bf16", hint="bf16")).graph is workshop.graph


def test_static_int8_brings_its_ranges_and_what_they_come_from(workshop: Workshop) -> None:
    found = made(workshop, INT8)
    assert "QuantizeLinear" in operators(found.graph)
    assert found.table is not None
    assert (found.table.rows, found.table.rows_available) == (64, 64)
    assert found.ranges["x"].low == pytest.approx(min(batch["x"].min() for batch in BATCHES))


def test_the_rows_are_read_once_for_all_trials_that_need_the_same(workshop: Workshop, rows: CountedRows) -> None:
    made(workshop, INT8)
    once = rows.opened
    made(workshop, Trial(engine="openvino", precision="int8", scheme="s8s8"))
    made(workshop, INT8.model_copy(update={"layers": {"MatMul_0": "fp32"}}))
    assert rows.opened == once


def test_the_same_trial_is_the_same_to_the_last_byte(small_graph: Graph, rows: CountedRows, tmp_path: Path) -> None:
    trial = INT8.model_copy(update={"calibrator": "mse"})
    fingerprints = set()
    for _ in range(2):
        workshop = Workshop(named_graph(small_graph), CalibrationRows(rows.read, 64, BATCHES), tmp_path, None)
        fingerprints.add(made(workshop, trial).graph.fingerprint())
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("precision", "operator"),
    [("int4", "MatMulNBits"), ("int8_dynamic", "DynamicQuantizeLinear"), ("fp16", "Cast"), ("bf16", "Cast")],
)
def test_each_precision_puts_its_own_operators_in(workshop: Workshop, precision: str, operator: str) -> None:
    found = made(workshop, Trial.model_validate({"precision": precision}))
    assert operator in operators(found.graph)


def test_a_layer_whose_values_fp16_cannot_hold_is_named(rows: CountedRows, tmp_path: Path) -> None:
    model = small_classifier()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "score_weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(2e4), weight.name))
    workshop = Workshop(named_graph(Graph(model)), CalibrationRows(rows.read, 64, BATCHES), tmp_path, None)
    (kept,) = made(workshop, Trial(precision="fp16")).kept.items()
    assert kept[0] == "Gemm_3"
    assert kept[1].startswith("'scores' reaches ")


def test_layers_of_one_engine_can_differ_in_precision(workshop: Workshop) -> None:
    trial = INT8.model_copy(update={"layers": {"MatMul_0": "int4"}})
    found = made(workshop, trial).graph
    assert {"QuantizeLinear", "MatMulNBits"} <= operators(found)
    expected, got = (next(iter(run_graph(graph, BATCHES[:1], optimize=True))) for graph in (workshop.graph, found))
    assert np.abs(expected["scores"] - got["scores"]).max() < 0.2 * np.abs(expected["scores"]).max()


def test_the_exceptions_of_a_trial_stay_as_they_were(workshop: Workshop) -> None:
    found = made(workshop, INT8.model_copy(update={"layers": {"Gemm_3": "fp32"}})).graph
    gemm = next(node for node in found.model.graph.node if node.op_type == "Gemm")
    assert "score_weight" in gemm.input


@pytest.mark.parametrize("trial", [INT8, Trial(precision="fp16")])
def test_without_rows_nothing_is_made_that_needs_ranges(small_graph: Graph, tmp_path: Path, trial: Trial) -> None:
    found = Workshop(named_graph(small_graph), None, tmp_path, None).make(trial)
    assert found == Declined(NO_DATA)


def test_rows_that_the_model_cannot_run_are_a_reason_and_no_crash(small_graph: Graph, tmp_path: Path) -> None:
    wrong = ({"x": np.zeros((2, 9), np.float32)},)
    workshop = Workshop(named_graph(small_graph), CalibrationRows(lambda: wrong, 2, wrong), tmp_path, None)
    found = workshop.make(INT8)
    assert isinstance(found, Declined)
    assert found.reason.startswith("calibration failed: ")


def test_a_repair_that_does_not_apply_says_so(rows: CountedRows, tmp_path: Path) -> None:
    """One layer has no neighbour to be equalized with."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "one layer", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    workshop = Workshop(named_graph(Graph(model)), CalibrationRows(rows.read, 64, BATCHES), tmp_path, None)
    found = workshop.make(INT8.model_copy(update={"repairs": ("equalization",)}))
    assert isinstance(found, Declined)
    assert found.reason.startswith("equalization does not apply: ")
