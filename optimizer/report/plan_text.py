"""The plan of a build in words, as `--dry-run` prints it."""

from collections.abc import Sequence

from enginehouse.tensor import TensorSpec
from optimizer.plan import Plan
from optimizer.report.figures import size_text
from optimizer.search.whole_model import whole_model_trials


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
        ("search", _search_text(plan)),
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
    return "none: nothing is calibrated, and outputs for seeded synthetic rows are compared"


def _search_text(plan: Plan) -> str:
    """The trials that the search begins with; which of them apply is only known once they are made."""
    trials = whole_model_trials(plan.graph, plan.recipe, plan.config.max_batch_size > 1)
    budget = f", within {plan.recipe.budget}" if plan.recipe.budget else ""
    return f"{'; '.join(map(str, trials))}{budget}; then repairs and layers where they may pay"
