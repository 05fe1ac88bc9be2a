"""From a trial to its graph: repairs, then each precision on the layers that shall have it.

repairs -> static INT8 -> dynamic INT8 -> INT4 -> FP16 or BF16 on what is left

Everything is a pure function of the rewritten graph, the calibration rows and the trial, so it can be kept, and made
again byte for byte. What OpenVINO computes in half precision is no part of the graph: it is a hint, see `Trial.hint`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import cast

from onnx import TensorProto

from enginehouse.errors import EngineFailed
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.graph.shapes import infer_shapes, value_types
from optimizer.lower.float_rules import HalfPrecision
from optimizer.lower.half import kept_in_fp32, lower_to_half
from optimizer.quantize.calibration import CalibrationTable, calibrate
from optimizer.quantize.calibrators import ChosenRange, choose_ranges
from optimizer.quantize.int4 import quantize_int4
from optimizer.quantize.int8 import plan_int8, quantize_int8
from optimizer.quantize.int8_dynamic import quantize_int8_dynamic
from optimizer.quantize.opset import with_quantizable_opset
from optimizer.quantize.saturation import saturation_share
from optimizer.repair.repair import NEEDS_RECALIBRATION, REPAIRS, Repair, Repaired
from optimizer.trial import Precision, RepairName, Trial

_HALVES: tuple[HalfPrecision, ...] = ("fp16", "bf16")
_SATURATION_BATCHES = 2
NO_DATA = "ranges must be calibrated on real rows: give --data"


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """Where ranges come from.

    Attributes:
        read: opens the stream of feeds anew.
        rows: how many rows it has.
        samples: a few dozen rows in small batches, for what needs the rows again and again.
        is_whole: each feed is one row, of a model without an axis of rows.
    """

    read: Callable[[], Iterable[Tensors]]
    rows: int
    samples: Sequence[Tensors]
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A trial's graph, and how it came about.

    Attributes:
        graph: the engine, for ONNX Runtime and OpenVINO.
        ranges: what the activations of its static INT8 layers got.
        table: what those ranges were chosen from.
        details: what each repair says it did.
        kept: layers that were to be FP16 or BF16 and stay FP32, by name, and why.
    """

    graph: Graph
    ranges: dict[str, ChosenRange]
    table: CalibrationTable | None
    details: dict[RepairName, str]
    kept: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Repairs:
    """A float graph after repairs; `anchor` is what its ranges were observed on, and what is right."""

    graph: Graph
    anchor: Graph
    details: dict[RepairName, str]


class Workshop:
    """Makes the graphs of one build's trials; what several trials share is made once.

    Args:
        graph: the rewritten graph, its nodes named.
        rows: what to calibrate on; None without data.
        workdir: for what calibration writes.
        states: where calibrations that were interrupted are resumed from; None keeps no state.
    """

    def __init__(self, graph: Graph, rows: CalibrationRows | None, workdir: Path, states: Path | None) -> None:
        self.graph = graph
        self._rows = rows
        self._workdir = workdir
        self._states = states
        self._tables: dict[tuple[str, bool, bool], CalibrationTable] = {}
        self._chosen: dict[tuple[str, str, bool], dict[str, ChosenRange]] = {}
        self._repaired: dict[str, _Repairs | Declined] = {}
        self._quantizable: Graph | Declined | None = None

    def make(self, trial: Trial) -> Made | Declined:
        """Make one graph; a step that does not apply gives its reason."""
        try:
            return self._make(trial)
        except EngineFailed as problem:
            return Declined(f"calibration failed: {problem}")

    def saturation(self, made: Made) -> dict[str, float]:
        """By layer the share of sums that a CPU without VNNI would clamp; see `quantize/saturation.py`."""
        return saturation_share(self.graph, made.graph, self._rows.samples[:_SATURATION_BATCHES]) if self._rows else {}

    def table(self, graph: Graph, every_tensor: bool, histograms: bool) -> CalibrationTable | Declined:
        """Observe a graph's tensors on the calibration rows: those of static INT8, or every float."""
        if self._rows is None:
            return Declined(NO_DATA)
        fingerprint = graph.fingerprint()
        key = (fingerprint, every_tensor, histograms)
        if key not in self._tables:
            tensors = _float_tensors(graph) if every_tensor else _int8_tensors(graph)
            if isinstance(tensors, Declined):
                return tensors
            name = f"{fingerprint[:16]}{'-all' if every_tensor else ''}.state"
            self._tables[key] = calibrate(
                graph,
                tensors,
                self._rows.read,
                self._rows.rows,
                self._workdir,
                histograms=histograms,
                state=self._states / name if self._states else None,
                is_whole=self._rows.is_whole,
            )
        return self._tables[key]

    def _make(self, trial: Trial) -> Made | Declined:
        if set(trial.layers.values()) | {trial.precision} <= {"fp32"} or _is_hint_only(trial):
            return Made(self.graph, {}, None, {})
        base = self._base(trial)
        if isinstance(base, Declined):
            return base
        repairs = self._repairs(base, trial)
        if isinstance(repairs, Declined):
            return repairs
        graph = repairs.graph
        ranges: dict[str, ChosenRange] = {}
        if "int8" in {trial.precision, *trial.layers.values()}:
            chosen = self._ranges(repairs.anchor, trial)
            if isinstance(chosen, Declined):
                return chosen
            quantized = _statically(graph, _layers_with(base, trial, "int8"), trial, chosen)
            if isinstance(quantized, Declined):
                return quantized
            graph, ranges = quantized, chosen
        lowered = self._lowered(graph, base, trial)
        if isinstance(lowered, Declined):
            return lowered
        table = self._table_of(repairs.anchor, trial) if ranges else None
        return Made(lowered, ranges, table, repairs.details, self._kept_in_fp32(base, trial))

    def _table_of(self, anchor: Graph, trial: Trial) -> CalibrationTable | None:
        table = self.table(anchor, every_tensor=False, histograms=trial.calibrator != "minmax")
        return None if isinstance(table, Declined) else table

    def _lowered(self, graph: Graph, base: Graph, trial: Trial) -> Graph | Declined:
        """The precisions that need no calibrated integers."""
        found: Graph | Declined = graph
        if layers := _layers_with(base, trial, "int8_dynamic"):
            found = quantize_int8_dynamic(graph, layers, trial.scheme or "u8s7")
        if isinstance(found, Graph) and (layers := _layers_with(base, trial, "int4")):
            found = quantize_int4(found, layers, "matmul_nbits" if trial.engine == "onnxruntime" else "qdq")
        for precision in _HALVES:
            layers = _layers_with(base, trial, precision)
            if isinstance(found, Graph) and layers:
                found = self._halved(found, base, layers, trial, precision)
        return found

    def _halved(
        self, graph: Graph, base: Graph, layers: Sequence[str], trial: Trial, precision: HalfPrecision
    ) -> Graph | Declined:
        ranges = self._every_range(base, precision)
        if isinstance(ranges, Declined):
            return ranges
        whole = trial.precision == precision and not trial.layers
        return lower_to_half(graph, precision, None if whole else layers, ranges)

    def _kept_in_fp32(self, base: Graph, trial: Trial) -> dict[str, str]:
        kept: dict[str, str] = {}
        for precision in _HALVES:
            layers = _layers_with(base, trial, precision)
            ranges = self._every_range(base, precision) if layers else {}
            if layers and not isinstance(ranges, Declined):
                kept |= kept_in_fp32(base, precision, layers, ranges)
        return kept

    def _every_range(self, base: Graph, precision: HalfPrecision) -> dict[str, tuple[float, float]] | Declined:
        """What FP16 must be able to hold; BF16 reaches as far as FP32."""
        if precision == "bf16":
            return {}
        table = self.table(base, every_tensor=True, histograms=False)
        return table if isinstance(table, Declined) else table.ranges()

    def _base(self, trial: Trial) -> Graph | Declined:
        """The graph that integers are put into: its opset is new enough for scales per channel."""
        if not {"int8", "int8_dynamic", "int4"} & {trial.precision, *trial.layers.values()}:
            return self.graph
        if self._quantizable is None:
            self._quantizable = with_quantizable_opset(self.graph)
        return self._quantizable

    def _repairs(self, base: Graph, trial: Trial) -> _Repairs | Declined:
        """Move values between weights and activations for all layers, once; then fit weights and biases to this trial.

        What is fitted depends on which layers are quantized, because each layer answers for the errors before it.
        """
        moving = trial.model_copy(update={"repairs": tuple(sorted(NEEDS_RECALIBRATION & set(trial.repairs)))})
        key = f"{base.fingerprint()}{moving.repairs}{trial.scheme}{trial.calibrator}"
        if key not in self._repaired:
            self._repaired[key] = self._repair(_Repairs(base, base, {}), moving.model_copy(update={"layers": {}}))
        moved = self._repaired[key]
        if isinstance(moved, Declined):
            return moved
        fitting = tuple(name for name in trial.repairs if name not in NEEDS_RECALIBRATION)
        return self._repair(moved, trial.model_copy(update={"repairs": fitting}))

    def _repair(self, done: _Repairs, trial: Trial) -> _Repairs | Declined:
        for name in REPAIRS:
            if name not in trial.repairs:
                continue
            result = self._repair_once(name, done, trial)
            if isinstance(result, Declined):
                if trial.layers:  # with fewer layers lowered there may be nothing left to repair
                    continue
                return Declined(f"{name} does not apply: {result.reason}")
            anchor = result.graph if name in NEEDS_RECALIBRATION else done.anchor
            done = _Repairs(result.graph, anchor, {**done.details, name: result.detail})
        return done

    def _repair_once(self, name: RepairName, done: _Repairs, trial: Trial) -> Repaired | Declined:
        if self._rows is None:
            return Declined(NO_DATA)
        layers = _layers_with(done.graph, trial, "int8")

        def quantize(graph: Graph) -> Graph | Declined:
            ranges = self._ranges(graph if name in NEEDS_RECALIBRATION else done.anchor, trial)
            return ranges if isinstance(ranges, Declined) else _statically(graph, layers, trial, ranges)

        plan = plan_int8(done.graph, layers, trial.engine)
        if isinstance(plan, Declined):
            return plan
        repair = _repair_from(REPAIRS[name])
        return repair(done.graph, plan.layers, quantize, self._rows.samples, done.anchor)

    def _ranges(self, anchor: Graph, trial: Trial) -> dict[str, ChosenRange] | Declined:
        symmetric = trial.scheme == "s8s8"
        key = (anchor.fingerprint(), trial.calibrator, symmetric)
        if key not in self._chosen:
            table = self.table(anchor, every_tensor=False, histograms=trial.calibrator != "minmax")
            if isinstance(table, Declined):
                return table
            samples = self._rows.samples if self._rows else ()
            self._chosen[key] = choose_ranges(anchor, table, trial.calibrator, symmetric, samples)
        return self._chosen[key]


def _statically(
    graph: Graph, layers: Collection[str] | None, trial: Trial, ranges: dict[str, ChosenRange]
) -> Graph | Declined:
    plan = plan_int8(graph, layers, trial.engine)
    if isinstance(plan, Declined):
        return plan
    assert trial.scheme is not None
    bounds = {name: (found.low, found.high) for name, found in ranges.items()}
    return quantize_int8(graph, plan, bounds, trial.scheme)


def _layers_with(base: Graph, trial: Trial, precision: Precision) -> list[str]:
    return [layer.name for layer in layers_of(base) if trial.precision_of(layer.name) == precision]


def _is_hint_only(trial: Trial) -> bool:
    return trial.engine == "openvino" and trial.precision in ("fp16", "bf16") and not trial.layers


def _repair_from(target: str) -> Repair:
    module, _, function = target.partition(":")
    return cast(Repair, getattr(import_module(module), function))


def _int8_tensors(graph: Graph) -> Sequence[str] | Declined:
    plan = plan_int8(graph)
    return plan if isinstance(plan, Declined) else plan.tensors


def _float_tensors(graph: Graph) -> Sequence[str]:
    """Every FP32 value that the graph is fed or computes."""
    types = value_types(infer_shapes(graph.model, is_strict=False))
    computed = {name for node in graph.model.graph.node for name in node.output}
    fed = {spec.name for spec in graph.inputs}
    return [
        name
        for name, found in types.items()
        if name in computed | fed and found.tensor_type.elem_type == TensorProto.FLOAT
    ]
