"""What besides a trial decides its outcome: two builds share cached trials only where all of it is equal."""

import hashlib
from pathlib import Path
from typing import Any

from enginehouse.hardware import this_hardware, threads_per_instance
from enginehouse.repository import digest
from optimizer.graph.graph import Graph
from optimizer.libraries import library_versions
from optimizer.plan import Plan


def trial_context(plan: Plan, rewritten: Graph) -> dict[str, Any]:
    """Name the graph, the data, the judgement, the machine, the libraries and our own code."""
    recipe = plan.recipe
    return {
        "source": plan.source.sha256,
        "rewritten": rewritten.fingerprint(),
        "data": plan.data.fingerprint() if plan.data else "",
        "metric": [plan.metric.name, _function_digest(plan.metric.name)] if plan.metric else [],
        "tolerance": [recipe.max_drop, recipe.allow_batch_variance, plan.config.max_batch_size > 1],
        "target": recipe.target,
        "batches": list(plan.quick_sizes),
        "seed": recipe.seed,
        "hardware": this_hardware().model_dump(mode="json"),
        "threads": threads_per_instance(1),
        "libraries": library_versions(),
        "code": code_digest(),
    }


def _function_digest(metric: str) -> str:
    """A metric of the user's own changes with its file."""
    path = Path(metric.rpartition(":")[0])
    return digest(path) if path.is_file() else ""


def code_digest() -> str:
    """SHA-256 of the optimizer's and the shared source files: other code may make other trials."""
    state = hashlib.sha256()
    optimizer = Path(__file__).parent
    for package in (optimizer, optimizer.with_name("enginehouse")):
        for path in sorted(package.rglob("*.py")):
            state.update(path.relative_to(package).as_posix().encode())
            state.update(path.read_bytes())
    return state.hexdigest()
