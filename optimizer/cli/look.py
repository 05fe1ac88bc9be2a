"""Commands that look at models and engines, and change nothing."""

from pathlib import Path
from typing import Annotated

import typer

from optimizer.cli.terminal import faults_as_one_sentence, plain_console

Repository = Annotated[Path, typer.Option(help="Where names are looked up.")]
Data = Annotated[str | None, typer.Option(help="Rows to run: as for a build. Default: seeded rows.")]
Metric = Annotated[str | None, typer.Option(help="As for a build.")]
Seconds = Annotated[float, typer.Option(help="To measure each batch size.", min=0.001)]
Seed = Annotated[int, typer.Option(help="Of made-up rows and of the order of measuring.")]
_MODEL = "An ONNX file, a version directory, NAME or NAME/VERSION."


def inspect(file: Annotated[Path, typer.Argument(help="The model to look at.")]) -> None:
    """Show a model's inputs, outputs, operators, parameters and opset."""
    with faults_as_one_sentence():
        from optimizer.inspect_model import inspect_table

        plain_console().print(inspect_table(file))


def check(
    model: Annotated[Path, typer.Argument(help="The model to look at.")],
    engine: Annotated[str, typer.Option("--for", help="onnxruntime, openvino, tensorrt or tensorrt-rtx.")],
) -> None:
    """Name every node that an engine's library cannot take, and why, before a build."""
    with faults_as_one_sentence():
        from optimizer.commands.check import check_model

        found = check_model(model, engine)
        plain_console().print(found.report)
        if not found.is_supported:
            raise typer.Exit(1)


def doctor(
    model: Annotated[str, typer.Argument(help="A version or model directory, NAME or NAME/VERSION.")],
    repository: Repository = Path("model_repo"),
) -> None:
    """Say what each engine of a version would do on this machine, and why."""
    with faults_as_one_sentence():
        from optimizer.commands.doctor import diagnose

        found = diagnose(model, repository)
        plain_console().print(found.report)
        if not found.can_serve:
            raise typer.Exit(1)


def compare(
    first: Annotated[str, typer.Argument(help=_MODEL)],
    second: Annotated[str, typer.Argument(help="The other.")],
    repository: Repository = Path("model_repo"),
    data: Data = None,
    metric: Metric = None,
    seconds: Seconds = 1.0,
    seed: Seed = 0,
) -> None:
    """Lay two models side by side: structure, size, answers and speed."""
    with faults_as_one_sentence():
        from optimizer.commands.compare import compare_models

        plain_console().print(compare_models(first, second, repository, data, metric, seconds, seed))


def bench(
    models: Annotated[list[str], typer.Argument(help=_MODEL + " Several are measured against the first.")],
    repository: Repository = Path("model_repo"),
    data: Data = None,
    batch: Annotated[list[int] | None, typer.Option(help="A batch size; may be repeated.")] = None,
    seconds: Seconds = 1.0,
    seed: Seed = 0,
) -> None:
    """Measure models side by side, in rounds, at several batch sizes."""
    with faults_as_one_sentence():
        from optimizer.commands.bench import bench_models
        from optimizer.evaluate.benchmark import BATCH_SIZES

        plain_console().print(bench_models(models, repository, data, batch or BATCH_SIZES, seconds, seed))


def verify(
    original: Annotated[str, typer.Argument(help=_MODEL + " What is right.")],
    candidate: Annotated[str, typer.Argument(help="What is judged.")],
    repository: Repository = Path("model_repo"),
    data: Data = None,
    metric: Metric = None,
    max_drop: Annotated[str, typer.Option(help="Largest drop of the metric: 1% or 0.01.")] = "1%",
    allow_batch_variance: Annotated[bool, typer.Option("--allow-batch-variance", help="As for a build.")] = False,
    seed: Seed = 0,
) -> None:
    """Judge one model by another, with the rule that a build goes by; exit status 1 where it is outside."""
    with faults_as_one_sentence():
        from optimizer.commands.verify import verify_models

        found = verify_models(original, candidate, repository, data, metric, max_drop, allow_batch_variance, seed)
        plain_console().print(found.report)
        if not found.is_accepted:
            raise typer.Exit(1)
