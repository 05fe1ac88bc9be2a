"""Random chains of what the folds are made for: whatever they do, the outputs stay."""

from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginehouse.dtype import Array
from optimizer.data.synthetic import synthetic_feeds
from optimizer.graph.graph import Graph
from optimizer.rewrite import rewrite

FOLDS = {
    name: f"optimizer.passes.{target}"
    for name, target in {
        "identity_elimination": "identity_elimination:eliminate_identities",
        "pad_into_conv": "pad_into_conv:fold_pads_into_convs",
        "batch_norm_into_conv": "batch_norm_into_conv:fold_batch_norms_into_convs",
        "affine_into_conv": "affine_into_conv:fold_affines_into_convs",
        "dead_nodes": "dead_nodes:remove_dead_nodes",
    }.items()
}
LAYERS = ("Conv", "Depthwise", "Norm", "Mul", "Add", "Sub", "Pad", "Relu", "Identity", "Square")
CHANNELS = 4


def _layer(kind: str, at: int, weights: dict[str, Array], random: np.random.Generator) -> str:
    """One node from value `v<at>` to `v<at + 1>`; its weights go into `weights`."""

    def weight(name: str, *shape: int) -> str:
        weights[f"{name}{at}"] = random.uniform(0.2, 1, shape).astype(np.float32)
        return f"{name}{at}"

    source = f"v{at}"
    match kind:
        case "Conv":
            call = f"Conv<pads = [1, 1, 1, 1]>({source}, {weight('W', CHANNELS, CHANNELS, 3, 3)})"
        case "Depthwise":
            call = f"Conv<group = {CHANNELS}>({source}, {weight('W', CHANNELS, 1, 1, 1)}, {weight('b', CHANNELS)})"
        case "Norm":
            parameters = ", ".join(weight(name, CHANNELS) for name in ("g", "t", "m", "s"))
            call = f"BatchNormalization({source}, {parameters})"
        case "Mul" | "Add" | "Sub":
            call = f"{kind}({source}, {weight('k', CHANNELS, 1, 1)})"
        case "Pad":
            weights[f"p{at}"] = np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64)
            call = f"Pad({source}, p{at})"
        case "Square":
            call = f"Mul({source}, {source})"
        case _:
            call = f"{kind}({source})"
    return f"v{at + 1} = {call}"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(LAYERS), min_size=1, max_size=7), seed=st.integers(0, 1000))
def test_every_chain_answers_as_before(plant: Callable[..., Graph], kinds: list[str], seed: int) -> None:
    random = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    nodes = " ".join(_layer(kind, at, weights, random) for at, kind in enumerate(kinds))
    text = f"(float[N,{CHANNELS},6,6] v0) => (float[N,{CHANNELS},H,V] v{len(kinds)}) {{ {nodes} }}"
    graph = plant(text, weights)
    feeds = [synthetic_feeds(graph.inputs, rows, batch_axis_open=True, seed=seed) for rows in (1, 2)]
    result, records = rewrite(graph, feeds, passes=FOLDS)
    assert [record for record in records if record.outcome == "dropped"] == []
    assert result.node_count <= graph.node_count
    assert (result.inputs, result.outputs) == (graph.inputs, graph.outputs)
