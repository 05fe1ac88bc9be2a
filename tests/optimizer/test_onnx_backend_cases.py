"""Every node case of the onnx package that ONNX Runtime can run: import -> rewrite -> FP32 engine -> equal outputs.

The cases are made in code by `onnx.backend.test`, with inputs and expected outputs. ONNX Runtime itself, given the same
file, says which of them it can run.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from enginehouse.dtype import Array
from enginehouse.errors import EngineFailed, Error
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.layers import named_graph
from optimizer.importers.import_model import import_model
from optimizer.rewrite import rewrite

RTOL, ATOL = 1e-3, 1e-7  # of onnx's own runner

# ONNX Runtime runs these, and they cannot be served: case (a pattern) to what the refusal says.
REFUSED = {
    r"test_constant": "has no inputs; a model to be served needs both",
    r"test_identity_sequence|test_if_seq|test_loop13_seq": "is of sequence type; only tensors can be served",
    r"test_sequence_map_.*|test_sequence_insert_at_(back|front)": "is of sequence type; only tensors can be served",
    r"test_split_to_sequence_(1|2|nokeepdims)": "is of sequence type; only tensors can be served",
    r"test_identity_opt|test_if_opt|test_loop16_seq_none": "is of optional type; only tensors can be served",
    r"test_castlike_.*(FLOAT8|INT4|INT2).*": "which no client can send or read; cast it inside the model",
}
# ONNX Runtime itself does not give what onnx expects; we must give what ONNX Runtime gives.
OTHERWISE_IN_ONNX_RUNTIME = {
    r"test_dft.*|test_stft.*": "zeros come out as rounding residue, 1e-4 beside 540",
    r"test_attention_4d_causal_fp16": "one of 192 values is off by a rounding of FP16",
    r"test_attention_4d_with_past_and_present_qk_matmul_bias_[34]d_mask_causal": "masked scores are lowest, not -inf",
    r"test_maxunpool_export_with_output_shape": "reads the indices in the given shape, onnx in the inferred one",
    r"test_resize_downsample_scales_(linear|cubic)_align_corners": "rounds the scaled size before it aligns corners",
}
# Their outputs are drawn anew in every run.
RANDOM = {"test_training_dropout", "test_training_dropout_default"}
RANDOM |= {f"{name}_mask" for name in RANDOM}


@dataclass(frozen=True, slots=True)
class Case:
    """One case, and what ONNX Runtime alone makes of it: its outputs, or why it cannot run it."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Any]
    expected: list[Any]
    plain: list[Any] | str


@dataclass(frozen=True, slots=True)
class Built:
    """What became of a case here: outputs, or the error that refused it."""

    outputs: list[Array]
    refusal: Error | None
    dropped: tuple[str, ...]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    from onnx.backend.test.case.node import collect_testcases

    state = np.random.get_state()
    np.random.seed(0)  # some cases draw their inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases provoke overflows on purpose
        collected = collect_testcases(None)
    np.random.set_state(state)
    return [_case(found) for found in collected]


@pytest.fixture(scope="module")
def built(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    folder = tmp_path_factory.mktemp("cases")
    return {case.name: _build(case, folder) for case in cases}


def _case(collected: Any) -> Case:
    model = collected.model
    ((inputs, outputs),) = collected.data_sets
    feeds = {value.name: _array(item) for value, item in zip(model.graph.input, inputs, strict=True)}
    return Case(collected.name, model, feeds, [_array(item) for item in outputs], _run_plainly(model, feeds))


def _array(item: Any) -> Any:
    """Sequences and absent optionals stay what they are; NumPy's scalars become arrays, as engines want them."""
    if isinstance(item, onnx.TensorProto):
        return numpy_helper.to_array(item)
    return item if isinstance(item, list) or item is None else np.asarray(item)


def _run_plainly(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any] | str:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as problem:
        return f"cannot open: {problem}"
    try:
        outputs: list[Any] = session.run(None, feeds)
    except Exception as problem:
        return f"cannot run: {problem}"
    return outputs


def _build(case: Case, folder: Path) -> Built:
    source, target = folder / "case.onnx", folder / "engine.onnx"
    source.write_bytes(case.model.SerializeToString())
    try:
        graph = import_model(source, folder)
        rewritten, passes = rewrite(graph, [case.feeds])
        named_graph(rewritten).save(target)
        engine = OnnxRuntimeEngine(target)
        try:
            outputs: Tensors = engine.run(case.feeds)
        finally:
            engine.close()
    except Error as problem:
        return Built([], problem, ())
    dropped = tuple(f"{record.name}: {record.detail}" for record in passes if record.outcome == "dropped")
    return Built([outputs[value.name] for value in case.model.graph.output], None, dropped)


def _why_not_equal(expected: list[Any], found: list[Any]) -> str | None:
    try:
        for want, have in zip(expected, found, strict=True):
            assert (have.dtype, have.shape) == (want.dtype, want.shape)
            if want.dtype == object:
                np.testing.assert_array_equal(have, want)
            else:
                np.testing.assert_allclose(have, want, rtol=RTOL, atol=ATOL)
    except AssertionError as problem:
        return str(problem).strip()
    return None


def _matches(patterns: dict[str, str]) -> Callable[[str], str | None]:
    return lambda name: next((reason for pattern, reason in patterns.items() if re.fullmatch(pattern, name)), None)


def _runnable(cases: list[Case]) -> Iterator[tuple[Case, list[Any]]]:
    for case in cases:
        if not isinstance(case.plain, str):
            yield case, case.plain


def test_every_case_that_onnx_runtime_runs_is_built_and_answers_as_expected(
    cases: list[Case], built: dict[str, Built]
) -> None:
    refusal_of, otherwise = _matches(REFUSED), _matches(OTHERWISE_IN_ONNX_RUNTIME)
    wrong, equal = {}, 0
    for case, plain in _runnable(cases):
        if refusal_of(case.name) or case.name in RANDOM:
            continue
        found = built[case.name]
        reference = plain if otherwise(case.name) else case.expected
        reason = str(found.refusal) if found.refusal else _why_not_equal(reference, found.outputs)
        if reason is not None:
            wrong[case.name] = reason
        equal += reason is None
    assert wrong == {}
    assert equal > 1300


def test_cases_that_draw_random_numbers_are_built_and_keep_their_shapes(
    cases: list[Case], built: dict[str, Built]
) -> None:
    by_name = {case.name: case for case in cases}
    for name in RANDOM:
        assert built[name].refusal is None
        shapes = [(array.dtype, array.shape) for array in built[name].outputs]
        assert shapes == [(array.dtype, array.shape) for array in by_name[name].expected]


def test_the_few_that_are_refused_are_those_listed_and_say_why(cases: list[Case], built: dict[str, Built]) -> None:
    listed = _matches(REFUSED)
    by_onnx_runtime = {case.name: case.plain for case in cases if isinstance(case.plain, str)}
    for case in cases:
        refusal, reason = built[case.name].refusal, listed(case.name)
        if reason is not None and "reads up to" not in str(refusal):
            assert reason in str(refusal), case.name
        elif refusal is not None:
            assert case.name in by_onnx_runtime, f"{case.name}: {refusal}"
    assert all(any(re.fullmatch(pattern, case.name) for case in cases) for pattern in REFUSED)


def test_what_onnx_runtime_cannot_open_is_refused_at_import_and_never_breaks_it(
    cases: list[Case], built: dict[str, Built]
) -> None:
    unopened = [case for case in cases if isinstance(case.plain, str) and case.plain.startswith("cannot open")]
    assert len(unopened) > 300
    for case in unopened:
        refusal = built[case.name].refusal
        assert refusal is not None, case.name
        assert not isinstance(refusal, EngineFailed), case.name
        assert len(str(refusal)) > 20


def test_the_list_of_cases_that_onnx_runtime_answers_otherwise_is_no_longer_than_it_must_be(cases: list[Case]) -> None:
    refused = _matches(REFUSED)
    differing = [
        case.name
        for case, plain in _runnable(cases)
        if not refused(case.name) and case.name not in RANDOM and _why_not_equal(case.expected, plain)
    ]
    listed = _matches(OTHERWISE_IN_ONNX_RUNTIME)
    assert [name for name in differing if listed(name) is None] == []
    assert all(any(re.fullmatch(pattern, name) for name in differing) for pattern in OTHERWISE_IN_ONNX_RUNTIME)


def test_only_passes_of_foreign_libraries_had_to_be_dropped(built: dict[str, Built]) -> None:
    dropped = [(name, record) for name, found in built.items() for record in found.dropped]
    assert [entry for entry in dropped if not entry[1].startswith(("onnxslim:", "onnxscript_"))] == []
    assert len(dropped) <= 4
