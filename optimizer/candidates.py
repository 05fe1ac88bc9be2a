"""The engines that compete: the source as it came, the rewritten graph, and its INT8 form."""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

from enginehouse.errors import EngineFailed
from optimizer.data import DataSet
from optimizer.graph import Graph, load_graph
from optimizer.quantize.calibration import calibrate
from optimizer.quantize.int8 import Declined, plan_int8, quantize_int8
from optimizer.samples import calibration_split

SOURCE = "source"
INT8 = "int8"
_PRECISIONS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}
_CALIBRATION_ROWS = 32


@dataclass(frozen=True, slots=True)
class Candidate:
    """One engine file to be compared; a candidate that was declined has none, and a reason."""

    name: str
    precision: str
    path: Path | None
    declined: str = ""

    @property
    def size_bytes(self) -> int | None:
        """The file with its weights, which for a large model lie in a second file beside it."""
        if self.path is None:
            return None
        return sum(path.stat().st_size for path in self.path.parent.glob(f"{self.path.name}*"))


def source_candidate(graph: Graph, workdir: Path) -> Candidate:
    return _saved(SOURCE, precision_of(graph), graph, workdir)


def rewritten_candidate(graph: Graph, workdir: Path) -> Candidate:
    """The rewritten graph is named by its precision, which is the source's."""
    precision = precision_of(graph)
    return _saved(precision, precision, graph, workdir)


def int8_candidate(graph: Graph, data: DataSet | None, workdir: Path) -> Candidate:
    """Calibrate and quantize the rewritten graph, or say why not."""
    refusal = int8_refusal(graph, data)
    if refusal:
        return Candidate(INT8, INT8, None, refusal)
    plan = plan_int8(graph)
    assert data is not None
    assert not isinstance(plan, Declined)
    split = calibration_split(data)
    assert split is not None
    feeds = (batch.feeds for batch in data.batches(split, _CALIBRATION_ROWS))
    try:
        table = calibrate(graph, plan.tensors, feeds, workdir)
    except EngineFailed as problem:
        return Candidate(INT8, INT8, None, f"calibration failed: {problem}")
    quantized = quantize_int8(graph, plan, table)
    if isinstance(quantized, Declined):
        return Candidate(INT8, INT8, None, quantized.reason)
    return _saved(INT8, INT8, quantized, workdir)


def place(candidate: Candidate, path: Path) -> None:
    """Copy a candidate's file to another name; weights that lie beside it follow under that name."""
    assert candidate.path is not None
    if len(list(candidate.path.parent.iterdir())) > 1:
        load_graph(candidate.path).save(path)
    else:
        shutil.copyfile(candidate.path, path)


def int8_refusal(graph: Graph, data: DataSet | None) -> str:
    """Say why INT8 will not be tried; empty if it will."""
    if data is None:
        return "ranges must be calibrated on real rows: give --data"
    if calibration_split(data) is None:
        return "the data has no calibration rows"
    plan = plan_int8(graph)
    return plan.reason if isinstance(plan, Declined) else ""


def precision_of(graph: Graph) -> str:
    """The precision that most float weights have; FP32 for a graph without any."""
    counts: Counter[int] = Counter()
    for tensor in graph.model.graph.initializer:
        if tensor.data_type in _PRECISIONS:
            counts[tensor.data_type] += 1
    return _PRECISIONS[counts.most_common(1)[0][0]] if counts else "fp32"


def _saved(name: str, precision: str, graph: Graph, workdir: Path) -> Candidate:
    """Each candidate has a folder of its own, so that external weights keep the name that the graph gives them."""
    path = workdir / name / "model.onnx"
    path.parent.mkdir()
    graph.save(path)
    return Candidate(name, precision, path)
