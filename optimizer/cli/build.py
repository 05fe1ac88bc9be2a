"""`python -m optimizer build`: every option of a build, and what it prints."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from enginehouse.errors import InvalidInput
from optimizer.cli.terminal import faults_as_one_sentence, plain_console
from optimizer.recipe import Recipe, recipe_from_options

if TYPE_CHECKING:
    from optimizer.replay import Replay

_Data = Annotated[
    str | None, typer.Option(help="An .npz file, a folder of them, or path.py:function. Needed for INT8.")
]
_Metric = Annotated[
    str | None,
    typer.Option(
        help="top1, top5, f1, mse, cosine, agreement, path.py:function. Default: top1 with labels, else agreement."
    ),
]
_Precision = Annotated[
    str, typer.Option(help="auto tries all; fp32, fp16, bf16, int8 or int4 must be reached, or nothing is published.")
]
_BatchVariance = Annotated[
    bool,
    typer.Option("--allow-batch-variance", help="Accept engines whose answer to a row depends on its batch mates."),
]


def build(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(help="The trained model: an ONNX file or a PyTorch program (.pt2).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in the repository.")] = None,
    repository: Annotated[Path | None, typer.Option(help="Model repository; made if it is not there.")] = None,
    data: _Data = None,
    metric: _Metric = None,
    max_drop: Annotated[
        str, typer.Option(help="Largest drop of the metric: 1% is one percentage point, 0.01 the same.")
    ] = "1%",
    precision: _Precision = "auto",
    engine: Annotated[
        str, typer.Option(help="auto tries what is installed; or onnxruntime, openvino, tensorrt, tensorrt-rtx.")
    ] = "auto",
    objective: Annotated[
        str, typer.Option(help="What to be best at: latency, throughput, size or memory.")
    ] = "latency",
    serving_batch: Annotated[
        int | None, typer.Option(help="The batch size that matters. Default: all that are measured alike.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="The machine to build for: host, avx2, vnni, amx, arm64, or sm_89 and the like.")
    ] = "host",
    budget: Annotated[str | None, typer.Option(help="How long the search may take: 90s, 10m, 2h.")] = None,
    random_calibration: Annotated[
        bool,
        typer.Option("--random-calibration", help="Without data: calibrate on made-up rows, and say so everywhere."),
    ] = False,
    allow_batch_variance: _BatchVariance = False,
    golden: Annotated[
        str, typer.Option(help="Golden samples: calibration rows, or synthetic ones where data must not be shipped.")
    ] = "calibration",
    max_batch_size: Annotated[
        int | None, typer.Option(help="Largest batch a server may form. Default: as published, else 32.")
    ] = None,
    benchmark_seconds: Annotated[
        float, typer.Option(help="Time to measure each batch size, shared by all finalists.")
    ] = 1.0,
    batch_axis: Annotated[
        str, typer.Option(help="found: as the model has it. open: let a model with a fixed batch size take any.")
    ] = "found",
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Where finished trials are kept. Default: ~/.cache/enginehouse.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Use no trial of another build, and keep none.")] = False,
    replay: Annotated[
        Path | None, typer.Option(help="evidence.json of an earlier build: make its engines again, byte for byte.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
) -> None:
    """Search for the fastest engine that is still right, prove it, and publish it."""
    options = dict(locals())
    for no_option_of_a_recipe in ("context", "no_cache", "replay", "dry_run"):
        del options[no_option_of_a_recipe]
    with faults_as_one_sentence():
        _run_build(options, _given(context), replay, no_cache, dry_run)


def _given(context: typer.Context) -> list[str]:
    """The names of what the user wrote, as against defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _run_build(
    options: dict[str, Any], given: Sequence[str], replay_path: Path | None, no_cache: bool, dry_run: bool
) -> None:
    from optimizer.replay import check_given, read_replay
    from optimizer.search.trial_cache import default_root

    replay = None
    if replay_path is not None:
        check_given(given)
        replay = read_replay(replay_path)
    if not no_cache:
        options["cache"] = options["cache"] or default_root()
    elif options["cache"] is not None:
        raise InvalidInput("--cache and --no-cache are both given. Leave one out.")
    if replay is not None:
        options = replay.options({name: options[name] for name in options if name in given or name == "cache"})
    for required in ("model", "name"):
        if options[required] is None:
            raise InvalidInput(f"no {required} is given. `python -m optimizer build MODEL --name NAME` needs both.")
    options["repository"] = options["repository"] or Path("model_repo")
    recipe = recipe_from_options(**options)
    if dry_run:
        _print_plan(recipe)
    else:
        _build(recipe, replay)


def _build(recipe: Recipe, replay: "Replay | None") -> None:
    from optimizer.pipeline import build as run_build
    from optimizer.report.steps import Steps
    from optimizer.report.table import candidate_table, outcome_lines

    console = plain_console()
    published = run_build(recipe, Steps(console), replay)
    console.print()
    console.print(candidate_table(published.evidence.candidates))
    console.print()
    for line in outcome_lines(published.evidence):
        console.print(line)
    console.print(f"published {published.directory}", highlight=False, markup=False, soft_wrap=True)


def _print_plan(recipe: Recipe) -> None:
    from optimizer.plan import plan_build
    from optimizer.report.plan_text import plan_rows

    table = Table(box=None, show_header=False, pad_edge=False)
    with tempfile.TemporaryDirectory() as workdir:
        for title, text in plan_rows(plan_build(recipe, Path(workdir), is_dry_run=True)):
            table.add_row(title, Text(text))
    console = plain_console()
    console.print(table)
    console.print("dry run: nothing was written.")
