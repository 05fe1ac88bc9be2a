"""The engines of a version: which candidate lies in which file, what it needs of a machine, and its plan for a GPU.

model.onnx            the best that ONNX Runtime runs
model.openvino.onnx   where OpenVINO won, or was asked for
model.sm89.plan       where a plan for TensorRT was asked for
fallback.onnx         the rewritten graph in the source's precision: runs anywhere
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from enginehouse.engine import Engine
from enginehouse.errors import VerifyFailed
from enginehouse.evidence import PassRecord, TargetRecord
from optimizer.build.open_artifact import Artifact, open_artifact
from optimizer.build.read_back import precision_problem
from optimizer.build.tensorrt_build import PlanRequest, build_plan, plan_target
from optimizer.build.tensorrt_network import observed_shapes
from optimizer.finalists import Finalists
from optimizer.graph.graph import Graph, load_graph
from optimizer.plan import PLATFORM, Plan
from optimizer.publish.engines import BuiltEngine
from optimizer.search.choose import Choice
from optimizer.search.search import Searched
from optimizer.search.trial_runner import MODEL_FILE, TrialRunner
from optimizer.search.tried import SOURCE, Tried
from optimizer.trial import Precision, Trial

Role = Literal["chosen", "variant", "fallback"]


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that a version is made of."""

    plan: Plan
    rewritten: Graph
    passes: tuple[PassRecord, ...]
    searched: Searched
    choice: Choice
    finalists: Finalists
    runner: TrialRunner
    source: Artifact

    def tried(self, name: str) -> Tried | None:
        """What a candidate came of; None for the source."""
        return next((one for one in self.searched.tried if one.record.name == name), None)


@contextmanager
def opened_engines(contents: Contents, workdir: Path) -> Iterator[list[BuiltEngine]]:
    """Every engine of the version; open where this machine can run it.

    Raises:
        VerifyFailed: a plan does not compute in the precision that was asked for.
        MissingExtra: TensorRT was asked for and is not installed.
    """
    choice = contents.choice
    fallback = _fallback(contents)
    portable = choice.portable if choice.portable != SOURCE or choice.chosen == SOURCE else fallback
    opened: list[Engine] = []

    def engine_of(name: str) -> Engine:
        engine = contents.finalists.engines.get(name)
        if engine is None:
            engine = open_artifact(_artifact(contents, name), contents.runner.bench.threads)
            opened.append(engine)
        return engine

    try:
        built = [_built(contents, MODEL_FILE, portable, "chosen", engine_of(portable))]
        if _trial(contents, choice.chosen).engine.startswith("tensorrt"):
            built.append(_plan_for_gpu(contents, choice.chosen, workdir))
        elif choice.chosen != portable:
            file = f"model.{_trial(contents, choice.chosen).engine}.onnx"
            built.append(_built(contents, file, choice.chosen, "variant", engine_of(choice.chosen)))
        built.append(_built(contents, "fallback.onnx", fallback, "fallback", engine_of(fallback)))
        yield built
    finally:
        for engine in opened:
            engine.close()


def _plan_for_gpu(contents: Contents, name: str, workdir: Path) -> BuiltEngine:
    """Build the plan from the graph that was verified in ONNX Runtime, and read it back."""
    trial, plan = _trial(contents, name), contents.plan
    capability = plan.recipe.machine.compute_capability
    assert capability is not None, "the plan of a build refuses TensorRT without a GPU as its target"
    library: Literal["tensorrt", "tensorrt-rtx"] = "tensorrt" if trial.engine == "tensorrt" else "tensorrt-rtx"
    largest = max(1, plan.config.max_batch_size)
    batch = (1, plan.recipe.serving_batch or min(8, largest), largest)
    graph = load_graph(_artifact(contents, name).path)
    seen = ({name: array.shape for name, array in feed.items()} for feed in contents.runner.bench.feeds.values())
    request = PlanRequest(
        graph=graph,
        library=library,
        compute_capability=capability,
        batch=batch,
        shapes=observed_shapes(graph, batch, seen),
        timing_cache=contents.runner.timing_cache,
    )
    file = f"model.sm{capability.replace('.', '')}.plan"
    proof = build_plan(request, workdir / file)
    problem = precision_problem(proof, trial.precision)
    if problem:
        raise VerifyFailed(f"the plan {file} is not what was asked for, and nothing was published: {problem}.")
    return BuiltEngine(
        file=file,
        source_path=workdir / file,
        role="variant",
        platform="tensorrt_plan",
        provider="",
        precision=trial.precision,
        candidate=name,
        settings={"library": library},
        target=plan_target(request),
        proof=proof,
    )


def _built(contents: Contents, file: str, name: str, role: Role, engine: Engine) -> BuiltEngine:
    trial, tried = _trial(contents, name), contents.tried(name)
    record = next(record for record in contents.choice.candidates if record.name == name)
    artifact = _artifact(contents, name)
    return BuiltEngine(
        file=file,
        source_path=artifact.path,
        role=role,
        platform="openvino" if artifact.engine == "openvino" else PLATFORM,
        provider=artifact.provider,
        precision=record.precision,
        candidate=name,
        settings={"INFERENCE_PRECISION_HINT": artifact.hint} if artifact.engine == "openvino" else {},
        target=_target(contents, trial),
        speedup=record.speedup.median if record.speedup else (1.0 if name == SOURCE else None),
        proof=tried.proof if tried else None,
        engine=engine,
    )


def _target(contents: Contents, trial: Trial) -> TargetRecord:
    """An engine that leaves every layer as it was runs anywhere; another one needs what it was chosen for."""
    recipe = contents.plan.recipe
    machine = recipe.machine
    if trial.precision == "fp32" and not trial.layers:
        return TargetRecord(is_measured=recipe.is_timed)
    return TargetRecord(
        name=machine.name,
        isa=_needed_isa(trial, machine.isa),
        compute_capability=machine.compute_capability,
        is_measured=recipe.is_timed,
    )


def _needed_isa(trial: Trial, isa: tuple[str, ...]) -> tuple[str, ...]:
    """U8S8 saturates without VNNI; BF16 is only fast where the processor has it."""
    precisions: set[Precision] = {trial.precision, *trial.layers.values()}
    needed = []
    if "int8" in precisions and trial.scheme == "u8s8":
        needed += [name for name in isa if name in ("avx512_vnni", "avx_vnni")][:1]
    if trial.hint == "bf16":
        needed += [name for name in isa if name in ("amx_bf16", "avx512_bf16")][:1]
    return tuple(needed)


def _fallback(contents: Contents) -> str:
    """The engine that runs anywhere: the rewritten graph in the source's precision, or the source if that is worse."""
    plain = next((one for one in contents.searched.tried if one.trial == Trial()), None)
    return plain.record.name if plain is not None and plain.is_accepted else SOURCE


def _trial(contents: Contents, name: str) -> Trial:
    tried = contents.tried(name)
    return tried.trial if tried else Trial()


def _artifact(contents: Contents, name: str) -> Artifact:
    tried = contents.tried(name)
    return contents.runner.artifact(tried) if tried else contents.source
