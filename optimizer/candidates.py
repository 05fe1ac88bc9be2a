"""The engines that compete: the source as it came, the rewritten graph, and its INT8 form."""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

from enginehouse.errors import EngineFailed
from optimizer.data.dataset import DataSet
from optimizer.data.samples import calibration_split
from optimizer.graph.graph import Graph, load_graph
from optimizer.quantize.calibration import calibrate
from optimizer.quantize.int8 import Declined, plan_int8, quantize_int8
from optimizer.quantize.opset import with_quantizable_opset

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
    quantized = _quantized(graph, data, workdir)
    if isinstance(quantized, Declined):
        return Candidate(INT8, INT8, None, quantized.reason)
    return _saved(INT8, INT8, quantized, workdir)


def _quantized(graph: Graph, data: DataSet | None, workdir: Path) -> Graph | Declined:
    split = _calibration_split(data)
    if isinstance(split, Declined):
        return split
    quantizable = with_quantizable_opset(graph)
    if isinstance(quantizable, Declined):
        return quantizable
    plan = plan_int8(quantizable)
    if isinstance(plan, Declined):
        return plan
    assert data is not None
    feeds = (batch.feeds for batch in data.batches(split, _CALIBRATION_ROWS))
    try:
        table = calibrate(quantizable, plan.tensors, feeds, workdir)
    except EngineFailed as problem:
        return Declined(f"calibration failed: {problem}")
    return quantize_int8(quantizable, plan, table)


def int8_refusal(graph: Graph, data: DataSet | None) -> str:
    """Say why INT8 will not be tried, as far as that can be told beforehand; empty if it will."""
    split = _calibration_split(data)
    if isinstance(split, Declined):
        return split.reason
    quantizable = with_quantizable_opset(graph)
    if isinstance(quantizable, Declined):
        return quantizable.reason
    plan = plan_int8(quantizable)
    return plan.reason if isinstance(plan, Declined) else ""


def _calibration_split(data: DataSet | None) -> str | Declined:
    if data is None:
        return Declined("ranges must be calibrated on real rows: give --data")
    return calibration_split(data) or Declined("the data has no calibration rows")


def place(candidate: Candidate, path: Path) -> None:
    """Copy a candidate's file to another name; weights that lie beside it follow under that name."""
    assert candidate.path is not None
    if len(list(candidate.path.parent.iterdir())) > 1:
        load_graph(candidate.path).save(path)
    else:
        shutil.copyfile(candidate.path, path)


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
