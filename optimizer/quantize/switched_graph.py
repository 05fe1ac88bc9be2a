"""One graph that answers what quantizing any one tensor does to the outputs: each tensor's rounding has a switch.

    t  becomes  if step > 0: (clip(round(t / step) + zero, 0, 255) - zero) * step; else: t

with `step` and `zero` fed, so that one session answers for every tensor and every range.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from enginehouse.dtype import Array
from enginehouse.hardware import threads_per_instance
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph

_PREFIX = "switch/"
_OFF = np.zeros(2, np.float32)


class SwitchedGraph:
    """The graph with its switches, and what it answers with all of them off.

    Args:
        graph: the float graph.
        tensors: which of its tensors get a switch.
        feeds: what it is run on; kept, as are the outputs.
        symmetric: integers from -127 to 127 in place of 0 to 255.

    Raises:
        EngineFailed: the graph cannot be opened, or cannot run the feeds.
    """

    def __init__(self, graph: Graph, tensors: Sequence[str], feeds: Sequence[Tensors], symmetric: bool) -> None:
        self._tensors, self._feeds = tuple(tensors), tuple(feeds)
        self._symmetric = symmetric
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "switched.onnx"
            Graph(_switched_model(graph, self._tensors, symmetric)).save(path)
            self._engine = OnnxRuntimeEngine(path, threads_per_instance(1))
        self._outputs = [self._run(feed, {}) for feed in self._feeds]

    def error(self, tensor: str, bounds: tuple[float, float]) -> float:
        """Squared error of the outputs over their squared length, with this tensor alone in eight bits."""
        switches = {tensor: self._switch(*bounds)}
        error, length = 0.0, 0.0
        for feed, expected in zip(self._feeds, self._outputs, strict=True):
            found = self._run(feed, switches)
            for name, array in expected.items():
                if array.dtype.kind == "f":
                    wanted = array.astype(np.float64)
                    error += float(((found[name] - wanted) ** 2).sum())
                    length += float((wanted**2).sum())
        return error / length if length else error

    def close(self) -> None:
        self._engine.close()

    def _run(self, feed: Tensors, switches: Tensors) -> Tensors:
        fed = {_PREFIX + name: switches.get(name, _OFF) for name in self._tensors}
        return self._engine.run({**feed, **fed})

    def _switch(self, low: float, high: float) -> Array:
        if self._symmetric:
            return np.array([max(-low, high) / 127, 0.0], np.float32)
        step = (high - low) / 255
        return np.array([step, np.round(-low / step) if step else 0.0], np.float32)


def _switched_model(graph: Graph, tensors: Sequence[str], symmetric: bool) -> ModelProto:
    model = graph.copy()
    wanted = set(tensors)
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name in wanted:
                node.input[position] = _rounded(name)
    bounds = (-127.0, 127.0) if symmetric else (0.0, 255.0)
    constants = [("lowest", bounds[0]), ("highest", bounds[1]), ("zero", 0.0)]
    model.graph.initializer.extend(helper.make_tensor(_PREFIX + n, TensorProto.FLOAT, [], [v]) for n, v in constants)
    for position in (0, 1):
        model.graph.initializer.append(helper.make_tensor(f"{_PREFIX}{position}", TensorProto.INT64, [], [position]))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    fed = [name for name in tensors if name in {value.name for value in model.graph.input}]
    for name in fed:
        model.graph.node.extend(_rounding(name))
    for node in nodes:
        model.graph.node.append(node)
        for name in node.output:
            if name in wanted:
                model.graph.node.extend(_rounding(name))
    model.graph.input.extend(helper.make_tensor_value_info(_PREFIX + name, TensorProto.FLOAT, [2]) for name in tensors)
    return model


def _rounding(name: str) -> list[NodeProto]:
    """The nodes of one switch; while it is off, only the copy of the tensor is computed."""
    base = f"{_PREFIX}{name}/"

    def node(operator: str, inputs: list[str], output: str) -> NodeProto:
        return helper.make_node(operator, inputs, [output])

    rounded = [
        node("Div", [name, f"{base}step"], f"{base}quotient"),
        node("Round", [f"{base}quotient"], f"{base}whole"),
        node("Add", [f"{base}whole", f"{base}offset"], f"{base}moved"),
        node("Clip", [f"{base}moved", f"{_PREFIX}lowest", f"{_PREFIX}highest"], f"{base}clipped"),
        node("Sub", [f"{base}clipped", f"{base}offset"], f"{base}centred"),
        node("Mul", [f"{base}centred", f"{base}step"], f"{base}scaled"),
    ]
    same = [node("Identity", [name], f"{base}same")]
    on, off = _branch(rounded), _branch(same)
    return [
        node("Gather", [_PREFIX + name, f"{_PREFIX}0"], f"{base}step"),
        node("Gather", [_PREFIX + name, f"{_PREFIX}1"], f"{base}offset"),
        node("Greater", [f"{base}step", f"{_PREFIX}zero"], f"{base}on"),
        helper.make_node("If", [f"{base}on"], [_rounded(name)], then_branch=on, else_branch=off),
    ]


def _branch(nodes: list[NodeProto]) -> GraphProto:
    """What the last node gives."""
    last = nodes[-1].output[0]
    return helper.make_graph(
        nodes, f"{last}/branch", [], [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)]
    )


def _rounded(name: str) -> str:
    return f"{_PREFIX}{name}/rounded"
