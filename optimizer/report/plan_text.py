"""The plan of a build in words, as `--dry-run` prints it."""

from collections.abc import Sequence

from enginehouse.tensor import TensorSpec
from optimizer.candidates import int8_refusal, precision_of
from optimizer.plan import Plan
from optimizer.report.table import size_text


def plan_rows(plan: Plan) -> list[tuple[str, str]]:
    """One row per step: its name and what it will do."""
    recipe, graph = plan.recipe, plan.graph
    judged = plan.metric.name if plan.metric else "output distance"
    sizes = ", ".join(map(str, plan.batch_sizes))
    return [
        (
            "import",
            f"{recipe.model}, {size_text(plan.source.size_bytes)}, {graph.node_count} nodes, opset {graph.opset}",
        ),
        ("", f"inputs {specs_text(graph.inputs)}; outputs {specs_text(graph.outputs)}"),
        ("data", _data_text(plan)),
        ("rewrite", "each pass is checked for equal outputs, and dropped if it changes them"),
        ("candidates", f"source, {precision_of(graph)}, {_int8_text(plan)}"),
        ("verify", f"by {judged}, drop at most {recipe.tolerance}"),
        ("benchmark", f"batch {sizes}; {recipe.benchmark_seconds:g} s each"),
        ("publish", f"{recipe.repository / recipe.name / str(plan.version)}, golden samples: {recipe.golden}"),
    ]


def specs_text(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs))


def _data_text(plan: Plan) -> str:
    if plan.data is not None:
        return f"{plan.recipe.data}, {plan.data}"
    if plan.recipe.data is not None:
        return f"the rows of {plan.recipe.data}; the function is only called by the build itself"
    return "none: seeded synthetic rows, so outputs are compared and no metric is"


def _int8_text(plan: Plan) -> str:
    if plan.data is None and plan.recipe.data is not None:
        return "int8"
    refusal = int8_refusal(plan.graph, plan.data)
    return f"int8 declined ({refusal})" if refusal else "int8"
