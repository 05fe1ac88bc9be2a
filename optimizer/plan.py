"""What a build will do, found out before any long work: everything that can be refused is refused here."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from enginehouse.errors import InvalidInput, MissingExtra
from enginehouse.evidence import Source
from enginehouse.model_config import config_from_specs, read_config
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.repository import digest
from enginehouse.tensor import TensorSpec
from optimizer.data.dataset import DataSet, open_data
from optimizer.data.random_data import random_data
from optimizer.evaluate.benchmark import BATCH_SIZES
from optimizer.evaluate.metrics import Metric, metric_from_name
from optimizer.graph.graph import Graph
from optimizer.importers.import_model import import_model
from optimizer.publish.publish import check_config, next_version
from optimizer.publish.staging import check_writable
from optimizer.recipe import DEFAULT_MAX_BATCH_SIZE, Recipe

PLATFORM = "onnxruntime_onnx"

# The module of each engine that an extra of its own name brings.
_MODULES = {"openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True, slots=True)
class Plan:
    """A build that can start.

    Attributes:
        recipe: what was asked for.
        source: the model file.
        graph: what was imported from it: the original that everything is compared with.
        data: None without `--data`, or in a dry run whose rows come from a function.
        metric: None without data.
        config: what `config.pbtxt` says, or will say.
        version: the next free number; another build may take it first.
        batch_sizes: what is measured.
        quick_sizes: what a trial of the search is measured at.
        is_random: the data is made up.
        warnings: what the lint found in the rows, once they have been read.
    """

    recipe: Recipe
    source: Source
    graph: Graph
    data: DataSet | None
    metric: Metric | None
    config: ModelConfig
    version: int
    batch_sizes: tuple[int, ...]
    quick_sizes: tuple[int, ...]
    is_random: bool
    warnings: tuple[str, ...] = ()


def plan_build(recipe: Recipe, workdir: Path, is_dry_run: bool) -> Plan:
    """Import the model, open the data and look at the repository.

    Args:
        recipe: what is asked for.
        workdir: for what importing and reading leave behind.
        is_dry_run: a row function is then not called.

    Raises:
        InvalidInput: a model, data, metric or repository that cannot be used, or options that exclude each other.
        MissingExtra: the engine that was asked for is not installed.
        AlreadyExists: the model is published with another configuration.
        Error: whatever else the importer says.
    """
    _check_target(recipe)
    _check_installed(recipe)
    _check_int8(recipe)
    check_writable(recipe.repository)
    graph = import_model(recipe.model, workdir, open_batch=recipe.batch_axis == "open")
    config = _config(recipe, graph)
    check_config(recipe.repository / recipe.name, config)
    data = _data(recipe, graph, None if is_dry_run else workdir)
    sizes = _batch_sizes(recipe, graph, config)
    return Plan(
        recipe=recipe,
        source=_source(recipe.model),
        graph=graph,
        data=data,
        metric=_metric(recipe, graph, data),
        config=config,
        version=next_version(recipe.repository / recipe.name),
        batch_sizes=sizes,
        quick_sizes=(recipe.serving_batch,) if recipe.serving_batch else tuple(dict.fromkeys((1, min(8, sizes[-1])))),
        is_random=data is not None and recipe.data is None,
    )


def _source(path: Path) -> Source:
    kind = "onnx" if path.suffix == ".onnx" else path.suffix.removeprefix(".") or "onnx"
    return Source(file=path.name, format=kind, sha256=digest(path), size_bytes=path.stat().st_size)


def _config(recipe: Recipe, graph: Graph) -> ModelConfig:
    """Describe the model; the batch size is what was asked for, else what is published, else our own."""
    batch_size = 0
    if graph.batch_axis_open:
        published = read_config(recipe.repository / recipe.name).max_batch_size
        batch_size = recipe.max_batch_size or published or DEFAULT_MAX_BATCH_SIZE
    elif recipe.max_batch_size is not None:
        raise InvalidInput(
            f"--max-batch-size is {recipe.max_batch_size}, and {recipe.model} has no open batch axis: its inputs are "
            f"{', '.join(map(str, graph.inputs))}. Leave the option out, or add --batch-axis open."
        )
    return config_from_specs(recipe.name, PLATFORM, graph.inputs, graph.outputs, batch_size, {})


def _data(recipe: Recipe, graph: Graph, workdir: Path | None) -> DataSet | None:
    if recipe.data is None:
        if recipe.random_calibration and workdir is not None:
            return random_data(graph.inputs, graph.batch_axis_open, recipe.seed, workdir)
        return None
    if recipe.random_calibration:
        raise InvalidInput("--random-calibration is for models without data, and --data was given. Leave one out.")
    data = open_data(recipe.data, graph.inputs, graph.batch_axis_open, recipe.seed, workdir)
    if data is not None and not data.rows["validation"]:
        raise InvalidInput(
            f"the data {recipe.data} has no validation rows, only {data}; candidates are judged on them. "
            "Add arrays named 'validation/<input name>'."
        )
    return data


def _metric(recipe: Recipe, graph: Graph, data: DataSet | None) -> Metric | None:
    if data is not None:
        return metric_from_name(recipe.metric, _row_spec(graph.outputs[0], data.is_whole), data.has_labels)
    if recipe.data is None and recipe.metric not in (None, "agreement"):
        raise InvalidInput(f"metric {recipe.metric} needs labels, and no data was given. Add --data.")
    return None


def _row_spec(output: TensorSpec, is_whole: bool) -> TensorSpec:
    """The output as the metric sees it, with an axis of rows."""
    return replace(output, shape=(-1, *output.shape)) if is_whole else output


def _batch_sizes(recipe: Recipe, graph: Graph, config: ModelConfig) -> tuple[int, ...]:
    largest = config.max_batch_size if graph.batch_axis_open else 1
    serving = recipe.serving_batch or 1
    if serving > largest:
        raise InvalidInput(
            f"--serving-batch is {serving}, and the model is published for batches of at most {largest}. "
            "Raise --max-batch-size, or name a smaller one."
        )
    return tuple(sorted({serving, *(size for size in BATCH_SIZES if size <= largest)}))


def _check_target(recipe: Recipe) -> None:
    if recipe.engine.startswith("tensorrt") and not recipe.machine.is_gpu:
        raise InvalidInput(
            f"--engine {recipe.engine} builds plans for one kind of GPU, and --target is {recipe.target}. "
            "Name the GPU's compute capability, such as --target sm_89."
        )
    if recipe.engine == "openvino" and recipe.machine.is_gpu:
        raise InvalidInput(
            f"--engine openvino runs on the CPU, and --target is {recipe.target}, a GPU. "
            "Name a CPU, or build a plan for the GPU with --engine tensorrt-rtx."
        )
    if recipe.objective == "memory" and not recipe.is_timed:
        raise InvalidInput(
            "--objective memory is measured by running engines, and the build does not run those of "
            f"--engine {recipe.engine} --target {recipe.target}. Take --objective size, or build for this machine."
        )


def _check_installed(recipe: Recipe) -> None:
    module = _MODULES.get(recipe.engine)
    if module is not None and find_spec(module) is None:
        raise MissingExtra(module, recipe.engine, f"--engine {recipe.engine}")


def _check_int8(recipe: Recipe) -> None:
    if recipe.precision == "int8" and recipe.data is None and not recipe.random_calibration:
        raise InvalidInput(
            "--precision int8 needs ranges, and there are no rows to calibrate them on: give --data, or accept made-up "
            "rows with --random-calibration."
        )
