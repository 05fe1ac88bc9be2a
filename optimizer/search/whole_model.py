"""The trials that a search begins with: every engine with every precision, on all layers alike."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.quantize.scheme import schemes_for
from optimizer.recipe import Recipe
from optimizer.target import Target
from optimizer.trial import EngineName, Precision, Scheme, Trial

# The module that an engine needs to be tried on this machine.
_MODULES: dict[EngineName, str] = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
# A budget may end the search anywhere.
_MOST_PROMISING_FIRST: tuple[Precision, ...] = ("fp32", "int8", "bf16", "fp16", "int4")
_DYNAMIC = frozenset(("MatMul", "Gemm", "LSTM"))


def engines_to_try(recipe: Recipe) -> tuple[EngineName, ...]:
    """The engines of this recipe that can be tried here; ONNX Runtime always, as the one that runs anywhere."""
    if recipe.engine != "auto":
        return (recipe.engine,)
    if recipe.machine.is_gpu:
        return ("onnxruntime",)
    return tuple(name for name, module in _MODULES.items() if find_spec(module) is not None)


def whole_model_trials(graph: Graph, recipe: Recipe, is_batched: bool) -> tuple[Trial, ...]:
    """List the trials, the rewritten graph in ONNX Runtime first: it is what every version falls back to."""
    trials = [Trial()]
    for precision in _precisions(recipe):
        for engine in engines_to_try(recipe):
            if recipe.precision != "auto" or _may_be_fast(engine, precision, recipe.machine):
                trials += _trials(engine, precision, recipe.machine)
    if _may_be_dynamic(graph, recipe, is_batched) and "onnxruntime" in engines_to_try(recipe):
        trials.append(Trial(precision="int8_dynamic", scheme=schemes_for("onnxruntime", recipe.machine)[0]))
    return tuple(_unique(trials))


def _precisions(recipe: Recipe) -> Sequence[Precision]:
    if recipe.precision == "auto":
        return _MOST_PROMISING_FIRST
    return (recipe.precision,)


def _trials(engine: EngineName, precision: Precision, target: Target) -> Iterator[Trial]:
    if precision == "int8":
        for scheme in _schemes(engine, target):
            yield Trial(engine=engine, precision="int8", scheme=scheme)
            if engine == "openvino" and _may_be_fast(engine, "bf16", target):
                yield Trial(engine=engine, precision="int8", scheme=scheme, hint="bf16")
        return
    hint = {"fp16": "f16", "bf16": "bf16"}.get(precision, "f32") if engine == "openvino" else "f32"
    yield Trial.model_validate({"engine": engine, "precision": precision, "hint": hint})


def _may_be_fast(engine: EngineName, precision: Precision, target: Target) -> bool:
    """Half precisions only where there are kernels for them: none for ONNX Runtime on x86."""
    if precision not in ("fp16", "bf16") or target.is_gpu:
        return True
    if engine == "onnxruntime":
        return target.is_arm and precision == "fp16"
    wanted = ("avx512_fp16", "amx_fp16") if precision == "fp16" else ("avx512_bf16", "amx_bf16", "bf16")
    return any(name in target.isa for name in wanted)


def _schemes(engine: EngineName, target: Target) -> Sequence[Scheme]:
    """Where eight-bit weights may saturate they are tried all the same, last: simulation tells whether they do."""
    schemes = schemes_for(engine, target)
    return (*schemes, "u8s8") if schemes == ("u8s7",) else schemes


def _may_be_dynamic(graph: Graph, recipe: Recipe, is_batched: bool) -> bool:
    """Its scales span the whole batch, so that strangers in one batch would change each other's answers."""
    if recipe.precision not in ("auto", "int8") or (is_batched and not recipe.allow_batch_variance):
        return False
    return any(layer.operator in _DYNAMIC for layer in layers_of(graph))


def _unique(trials: Sequence[Trial]) -> Iterator[Trial]:
    seen: set[str] = set()
    for trial in trials:
        text = trial.model_dump_json()
        if text not in seen:
            seen.add(text)
            yield trial
