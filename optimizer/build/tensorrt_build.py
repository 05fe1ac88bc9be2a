"""Build a TensorRT plan from a graph, with either library, and read back what became of each node.

TensorRT-RTX builds without a GPU and is told its target. TensorRT builds for the GPU that is there; it could not be
installed where this was written, so its half was run against a fake of its documented names only.

Without a GPU nobody can open a plan. What is read back then is the builder's own list of the engine's layers (see
`tensorrt_proof.py`), and from the file that its header is well-formed and for which targets it was compiled.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginehouse.cuda_driver import open_driver
from enginehouse.errors import EngineFailed, InvalidInput, Unsupported
from enginehouse.evidence import EngineProof, TargetRecord
from enginehouse.tensorrt_library import (
    LAYER_LIST,
    LIBRARIES,
    LibraryName,
    TensorRTLibrary,
    errors_in,
    library_version,
    listening_log,
)
from optimizer.build.tensorrt_layers import BuiltLayer, layers_from_inspector, layers_from_log
from optimizer.build.tensorrt_network import Network, Shapes, empty_network, profile_shapes, saved_graph
from optimizer.build.tensorrt_proof import prove
from optimizer.build.tensorrt_support import errors_of, foreign_types, unsupported_nodes
from optimizer.graph.graph import Graph
from optimizer.graph.layers import named_graph

_TARGETS_IN_PLAN = re.compile(rb"accelerators=\{((?:sm\d+ )+)\}")


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A plan to build.

    Attributes:
        graph: its precision is in it: casts, Q and DQ.
        library: which of the two builds it, and will run it.
        compute_capability: of the target, such as `8.9`.
        batch: least, best and most rows.
        shapes: for inputs of which more than the batch is open, or that need other bounds: least, best, most.
        timing_cache: file of measured kernels that is read and rewritten; used where the library has such a thing.
        version_compatible: later releases of the library open the plan too.
        hardware_compatible: later GPUs run it too; a plan for one kind is faster.
    """

    graph: Graph
    library: LibraryName
    compute_capability: str
    batch: tuple[int, int, int]
    shapes: Mapping[str, Shapes] = field(default_factory=dict)
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


def build_plan(request: PlanRequest, path: Path) -> EngineProof:
    """Write the plan, whole or not at all, and say what each of its layers computes in.

    Raises:
        MissingExtra: the library is not installed.
        Unsupported: nodes that the library cannot build; all are named, with reasons.
        InvalidInput: shapes, a target or an option that this library has not.
        NotSupported: `tensorrt` without a GPU.
        EngineFailed: the builder failed.
    """
    library = LIBRARIES[request.library]
    _check_request(request, library)
    shapes = profile_shapes(request.graph, request.batch, request.shapes)
    with tempfile.TemporaryDirectory() as folder:
        network = _parsed(request.graph, library, Path(folder))
        plan = _built(network, request, library, shapes)
    _check_plan(plan, network, request, library)
    layers = _layers(plan, network, library)
    _write(plan, path)
    return prove(layers, named_graph(request.graph))


def plan_target(request: PlanRequest) -> TargetRecord:
    """What a machine must have to run the plan; raises `MissingExtra` where the library is not installed."""
    distribution, version = library_version(LIBRARIES[request.library])
    return TargetRecord(
        name=f"sm_{request.compute_capability.replace('.', '')}",
        compute_capability=request.compute_capability,
        libraries={} if request.version_compatible else {distribution: version},
        is_measured=False,
    )


def targets_in_plan(plan: bytes) -> frozenset[str]:
    """The compute capabilities that a plan says it was compiled for, as `8.9`; empty where it does not say."""
    names = {name for match in _TARGETS_IN_PLAN.findall(plan) for name in match.decode().split()}
    return frozenset(f"{name[2:-1]}.{name[-1]}" for name in names)


def _check_request(request: PlanRequest, library: TensorRTLibrary) -> None:
    if request.version_compatible and not library.is_version_compatible:
        raise InvalidInput(
            f"{library.title} opens only plans of its own release, so none can be version-compatible; "
            "leave that out, or build with tensorrt."
        )
    if not re.fullmatch(r"\d+\.\d", request.compute_capability):
        raise InvalidInput(f"compute capability '{request.compute_capability}' is not understood; expected one as 8.9.")
    if not library.takes_target:
        driver = open_driver(f"building a plan with {library.title}")
        found = driver.compute_capability
        driver.close()
        if found != request.compute_capability:
            raise InvalidInput(
                f"{library.title} builds for the GPU it runs on, which has compute capability {found}; asked for was "
                f"{request.compute_capability}. Build on such a GPU, or with tensorrt-rtx."
            )


def _parsed(graph: Graph, library: TensorRTLibrary, folder: Path) -> Network:
    network = empty_network(library, f"building a plan with {library.title}")
    nodes = foreign_types(graph, library)
    if not nodes and not network.parser.parse_from_file(str(saved_graph(graph, folder))):
        nodes = unsupported_nodes(graph, library.name) or errors_of(network.parser, library)
        if not nodes:
            raise Unsupported(f"{library.title} cannot read this graph: {errors_in(network.log)}.")
    if nodes:
        raise Unsupported(f"{library.title} cannot build this graph: {'; '.join(map(str, nodes))}.")
    return network


def _built(network: Network, request: PlanRequest, library: TensorRTLibrary, shapes: Mapping[str, Shapes]) -> bytes:
    config = network.builder.create_builder_config()
    config.profiling_verbosity = network.module.ProfilingVerbosity.DETAILED  # else the layers are not listed
    config.clear_flag(network.module.BuilderFlag.TF32)  # FP32 that is asked for is FP32
    config.add_optimization_profile(_profile(network, library, shapes))
    if library.takes_target:
        _set_targets(config, network.module, request, library)
    else:
        _set_compatibility(config, network.module, request)
    if library.has_timing_cache and request.timing_cache is not None:
        _use_timing_cache(config, request.timing_cache)
    plan = network.builder.build_serialized_network(network.definition, config)
    if plan is None:
        raise EngineFailed(
            f"{library.title} cannot build the plan for compute capability {request.compute_capability}: "
            f"{errors_in(network.log)}."
        )
    if library.has_timing_cache and request.timing_cache is not None:
        _write(bytes(config.get_timing_cache().serialize()), request.timing_cache)
    return bytes(plan)


def _profile(network: Network, library: TensorRTLibrary, shapes: Mapping[str, Shapes]) -> Any:
    profile = network.builder.create_optimization_profile()
    for index in range(network.definition.num_inputs):
        tensor = network.definition.get_input(index)
        if tensor.is_shape_tensor:
            raise Unsupported(
                f"{library.title} would need the least and most VALUES of input '{tensor.name}', because shapes are "
                "computed from it; make it a constant of the model."
            )
        profile.set_shape(tensor.name, *shapes[tensor.name])
    return profile


def _set_targets(config: Any, module: Any, request: PlanRequest, library: TensorRTLibrary) -> None:
    offered = {name[2:]: value for name, value in module.ComputeCapability.__members__.items() if name[2:].isdigit()}
    wanted = request.compute_capability.replace(".", "")
    if wanted not in offered:
        names = ", ".join(f"{name[:-1]}.{name[-1]}" for name in sorted(offered, key=int))
        raise InvalidInput(
            f"{library.title} builds no plans for compute capability {request.compute_capability}; it builds for "
            f"{names}. Build with tensorrt on such a GPU."
        )
    chosen = [wanted]
    if request.hardware_compatible:
        chosen = [name for name in sorted(offered, key=int) if int(name) >= int(wanted)]
    config.num_compute_capabilities = len(chosen)
    for index, name in enumerate(chosen):
        config.set_compute_capability(offered[name], index)


def _set_compatibility(config: Any, module: Any, request: PlanRequest) -> None:
    if request.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if request.hardware_compatible:
        config.hardware_compatibility_level = module.HardwareCompatibilityLevel.AMPERE_PLUS


def _use_timing_cache(config: Any, path: Path) -> None:
    """Take the kernels measured before; a cache of another GPU or release is left aside and replaced."""
    known = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _check_plan(plan: bytes, network: Network, request: PlanRequest, library: TensorRTLibrary) -> None:
    """Read the file back as far as that goes without a GPU."""
    if library.tells_validity:
        runtime = network.module.Runtime(listening_log(network.module))
        _, diagnostics = runtime.get_engine_validity(plan[: runtime.engine_header_size])
        if int(diagnostics) & int(network.module.EngineInvalidityDiagnostics.MALFORMED_ENGINE):
            raise EngineFailed(f"{library.title} built a plan that it calls malformed itself; nothing was written.")
    found = targets_in_plan(plan)
    if found and request.compute_capability not in found:
        raise EngineFailed(
            f"{library.title} was asked for compute capability {request.compute_capability} and compiled for "
            f"{', '.join(sorted(found))}; nothing was written."
        )


def _layers(plan: bytes, network: Network, library: TensorRTLibrary) -> tuple[BuiltLayer, ...]:
    lists = [text for _, text in network.log.lines if text.startswith(LAYER_LIST)]
    layers = layers_from_log(lists[-1]) if lists else _inspected(plan, network)
    if not layers:
        raise EngineFailed(
            f"{library.title} built a plan and lists none of its layers, so nobody can say what it computes in; "
            "nothing was written."
        )
    return layers


def _inspected(plan: bytes, network: Network) -> tuple[BuiltLayer, ...]:
    """Open the plan, where a GPU lets it be opened, and ask it."""
    engine = network.module.Runtime(network.log).deserialize_cuda_engine(plan)
    if engine is None:
        return ()
    text = engine.create_engine_inspector().get_engine_information(network.module.LayerInformationFormat.JSON)
    return layers_from_inspector(text)


def _write(content: bytes, path: Path) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
