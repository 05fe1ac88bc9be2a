"""Evidence made by hand: a search of many trials over a network of many layers, with everything a report can show."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from enginehouse.evidence import (
    CalibrationRecord,
    CandidateRecord,
    Closeness,
    EngineLayer,
    EngineProof,
    EngineRecord,
    Evidence,
    Golden,
    GoldenTolerance,
    LatencyPoint,
    LayerRecord,
    MetricRecord,
    PassRecord,
    RepairRecord,
    Source,
    Speedup,
    TargetRecord,
    TestScore,
    WorstSample,
)
from enginehouse.hardware import Hardware

BATCHES = (1, 2, 4, 8, 16, 32)
ROWS = 1200
EvidenceMaker = Callable[..., Evidence]
REPAIRS = (
    RepairRecord(name="equalization", drop_before=0.031, drop_after=0.0224, detail="41 pairs of layers"),
    RepairRecord(
        name="bias_correction", drop_before=0.0224, drop_after=0.0058, detail="53 layers, mean 0.02 -> 0.0004"
    ),
)
CALIBRATION = CalibrationRecord(
    split="calibration",
    rows=512,
    rows_available=2000,
    has_converged=True,
    is_random=False,
    calibrators={"minmax": 41, "entropy": 12},
    ranges={f"relu_{number}": (0.0, 1.0 + number % 7) for number in range(53)} | {"add": (-3.1, 2.7)},
    warnings=("class 7 of 10 is in calibration and not in validation",),
)


def curve(factor: float) -> tuple[LatencyPoint, ...]:
    """A source of 2 ms and 1 ms per row, and an engine that takes a share of it."""
    return tuple(
        LatencyPoint(
            batch=batch,
            median_ms=factor * (2 + batch),
            p99_ms=1.25 * factor * (2 + batch),
            source_median_ms=2.0 + batch,
            rounds=12,
        )
        for batch in BATCHES
    )


def metric(drop: float, name: str = "top1") -> MetricRecord:
    return MetricRecord(
        name=name,
        rows=ROWS,
        source=0.912,
        candidate=0.912 - drop,
        drop=drop,
        drop_upper_95=drop + 0.004,
        p_value=0.3 if drop < 0.008 else 0.001,
    )


def candidate(name: str, precision: str, drop: float, factor: float, **fields: Any) -> CandidateRecord:
    verdict: Literal["accepted", "rejected"] = "accepted" if drop <= 0.01 else "rejected"
    given = {
        "engine": "openvino" if "openvino" in name else "onnxruntime",
        "size_bytes": int(97_800_000 * factor),
        "quick_speedup": 1 / factor,
        "metric": metric(drop),
        "max_abs_difference": 3 * drop,
        "batch_invariant": True,
        "verdict": verdict,
        "reason": "inside the tolerance" if drop <= 0.01 else f"top1 drops by {drop:.2%}, 1% is allowed",
    }
    return CandidateRecord(name=name, precision=precision, **{**given, **fields})


def finalist(name: str, precision: str, drop: float, factor: float, **fields: Any) -> CandidateRecord:
    speedup = Speedup(median=1 / factor, lower_95=0.98 / factor)
    return candidate(name, precision, drop, factor, latency=curve(factor), speedup=speedup, **fields)


def candidates(count: int) -> tuple[CandidateRecord, ...]:
    """The source, five finalists, one declined, one failed, and so many more that were only tried."""
    random = np.random.default_rng(3)
    source = CandidateRecord(
        name="source",
        precision="fp32",
        stage="source",
        size_bytes=97_800_000,
        memory_bytes=310_000_000,
        latency=curve(1.0),
        verdict="accepted",
        reason="the original",
    )
    chosen = "openvino int8 s8s8 + bf16, bias_correction, 3 layers fp32"
    made = [
        source,
        finalist("fp32", "fp32", 0.0, 0.93, max_abs_difference=1.2e-6),
        finalist("int8, bias_correction", "int8", 0.0042, 0.31, stage="repair"),
        finalist("openvino bf16", "bf16", 0.0008, 0.26),
        finalist(chosen, "int8", 0.0058, 0.16, memory_bytes=101_000_000, verdict="chosen", reason="fastest, 6.25x"),
        finalist("openvino int8 s8s8", "int8", 0.0142, 0.148),
        CandidateRecord(name="int4", precision="int4", verdict="declined", reason="no MatMul of constant weights"),
        CandidateRecord(name="openvino fp16", precision="fp16", verdict="failed", reason="EngineFailed: no kernel"),
    ]
    for number in range(count):
        precision = str(random.choice(["int8", "int8", "int8", "bf16", "int4", "int8_dynamic"]))
        drop = float(random.gamma(0.7, 0.012) if number % 9 else random.uniform(0.1, 0.8))
        factor = float(random.uniform(0.15, 0.6) if precision.startswith("int8") else random.uniform(0.27, 1.0))
        name = f"{'openvino ' if number % 3 == 0 else ''}{precision}, {number} layers fp32"
        made.append(candidate(name, precision, drop, factor, stage="layers"))
    return tuple(made)


def layers(count: int) -> tuple[LayerRecord, ...]:
    random = np.random.default_rng(5)
    made = []
    for number in range(count):
        kept = number % 23 == 4
        time = float(random.gamma(2, 0.02))
        made.append(
            LayerRecord(
                name=f"/layer{number // 6}/block.{number % 6}/conv/Conv",
                operator="Gemm" if number == count - 1 else "Conv",
                precision="fp32" if kept else "bf16" if number % 11 == 0 else "int8",
                sensitivity=float(10 ** random.uniform(-6, -2)) * (20 if kept else 1),
                time_ms=time,
                saved_ms=None if kept else 0.7 * time,
                reason="kept in fp32 by the search: lowered alone it changes the outputs by 0.031" if kept else "",
            )
        )
    return tuple(made)


def proof(count: int, precision: str) -> EngineProof:
    return EngineProof(
        layers=tuple(
            EngineLayer(
                name=f"conv_{number}",
                operator="Convolution",
                precision=precision if number % 10 else "fp32",
                time_ms=0.012,
                source_nodes=(f"Conv_{number}", f"Relu_{number}"),
            )
            for number in range(count)
        ),
        layer_share={"fp32": 1.0} if precision == "fp32" else {precision: 0.9, "fp32": 0.1},
        time_share={"fp32": 1.0} if precision == "fp32" else {precision: 0.78, "fp32": 0.22},
        kept={"/head/Gemm": "the search kept it in fp32"} if precision == "int8" else {},
    )


def engine(file: str, role: Literal["chosen", "variant", "fallback"], precision: str, **fields: Any) -> EngineRecord:
    given = {
        "platform": "openvino" if "openvino" in file else "onnxruntime_onnx",
        "provider": "CPUExecutionProvider",
        "candidate": f"{precision} of {file}",
        "target": TargetRecord(isa=("avx512_vnni",)),
        "speedup": 3.2,
        "tolerance": GoldenTolerance(original={"scores": Closeness(atol=1e-3, rtol=1e-4)}),
    }
    return EngineRecord(file=file, role=role, precision=precision, **{**given, **fields})


def make_evidence(trials: int = 5, layer_count: int = 24, **fields: Any) -> Evidence:
    random = np.random.default_rng(9)
    answers = random.standard_normal(10)
    given: dict[str, Any] = {
        "schema_version": 2,
        "model": "resnet50",
        "version": 3,
        "created_at": "2026-11-21T10:00:00Z",
        "source": Source(file="resnet50.onnx", format="onnx", sha256="ab" * 32, size_bytes=97_800_000),
        "recipe": {"max_drop": "1%", "seed": 0, "metric": None, "data": "rows.npz"},
        "passes": (
            PassRecord(
                name="batch_norm_into_conv", outcome="kept", nodes_before=176, nodes_after=123, detail="53 folded"
            ),
            PassRecord(name="gelu_fusion", outcome="unchanged", nodes_before=123, nodes_after=123),
        ),
        "candidates": candidates(trials),
        "chosen": "openvino int8 s8s8 + bf16, bias_correction, 3 layers fp32",
        "reason": "fastest inside the tolerance of 1%: 6.25x (at least 6.13x)",
        "test": TestScore(metric="top1", rows=800, source=0.9088, chosen=0.905),
        "engines": (
            engine("model.onnx", "chosen", "int8", proof=proof(53, "int8")),
            engine(
                "model.openvino.onnx",
                "variant",
                "int8",
                settings={"INFERENCE_PRECISION_HINT": "bf16"},
                speedup=6.25,
                proof=proof(60, "int8"),
            ),
            engine("fallback.onnx", "fallback", "fp32", speedup=1.07, proof=proof(53, "fp32")),
        ),
        "golden": Golden(rows=16, synthetic=False),
        "layers": layers(layer_count),
        "repairs": REPAIRS,
        "calibration": CALIBRATION,
        "worst": WorstSample(
            row=417,
            output="scores",
            difference=0.41,
            source=tuple(answers.tolist()),
            built=tuple((answers + 0.15 * random.standard_normal(10)).tolist()),
        ),
        "serving_batch": 8,
        "threads": 2,
        "hardware": Hardware(cpu="A CPU of 2026", architecture="x86_64", isa=("avx2", "avx512_vnni"), cores=2),
        "libraries": {"onnxruntime": "1.31.1", "openvino": "2026.4"},
        "files": {"model.onnx": "cd" * 32, "golden.npz": "ef" * 32},
    }
    return Evidence(**{**given, **fields})


@pytest.fixture
def evidence_with() -> EvidenceMaker:
    """Make evidence in which some fields are others."""
    return make_evidence


@pytest.fixture
def evidence() -> Evidence:
    return make_evidence()
