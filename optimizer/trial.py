"""A trial: one engine that could be built, described by everything that decides its bytes and nothing else."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

EngineName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]

# `fp32` leaves a layer as the source has it, whatever float that is; `int8_dynamic` finds its ranges as it runs.
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8_dynamic", "int4"]

# Activations and weights: u8s8 for ONNX Runtime on x86, u8s7 (weights of seven bits) where it would saturate, and
# symmetric s8s8 with float biases for TensorRT, and for OpenVINO where it is faster.
Scheme = Literal["u8s8", "u8s7", "s8s8"]

# `per_tensor` takes for each tensor the one that harms the outputs least.
Calibrator = Literal["minmax", "percentile", "entropy", "mse", "per_tensor"]

# What OpenVINO computes float layers in; it is always told, because by itself it takes BF16 where the CPU can.
Hint = Literal["f32", "bf16", "f16"]

# In the order in which they are applied.
RepairName = Literal["equalization", "smooth_quant", "adaptive_rounding", "bias_correction"]


class Trial(BaseModel):
    """One engine to make.

    Attributes:
        engine: what runs it.
        precision: what its layers compute in.
        layers: the exceptions, by layer name.
        scheme: how the integers of INT8 are arranged; None where there are none.
        calibrator: chooses the range of each activation of static INT8.
        repairs: what is done to the float graph so that it bears its precision better.
        hint: precision of OpenVINO's float layers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineName = "onnxruntime"
    precision: Precision = "fp32"
    layers: dict[str, Precision] = {}
    scheme: Scheme | None = None
    calibrator: Calibrator = "minmax"
    repairs: tuple[RepairName, ...] = ()
    hint: Hint = "f32"

    def key(self, context: Mapping[str, Any]) -> str:
        """Content address: SHA-256 of the trial and of what it is made from and with, in hex."""
        text = json.dumps({"trial": self.model_dump(mode="json"), **context}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def precision_of(self, layer: str) -> Precision:
        return self.layers.get(layer, self.precision)

    def __str__(self) -> str:
        """Its name in tables: `int8`, `openvino int8 s8s8 + bf16, bias_correction, 3 layers fp32`."""
        words: list[str] = [] if self.engine == "onnxruntime" else [self.engine]
        words.append(self.precision)
        if self.engine == "openvino" and self.scheme:
            words.append(self.scheme)
        if self.hint != "f32" and self.precision not in ("fp16", "bf16"):
            words.append(f"+ {self.hint}")
        details: list[str] = [self.calibrator] if self.calibrator != "minmax" else []
        details += self.repairs
        if self.layers:
            noun = "layer" if len(self.layers) == 1 else "layers"
            details.append(f"{len(self.layers)} {noun} {'/'.join(sorted(set(self.layers.values())))}")
        return ", ".join([" ".join(words), *details])
