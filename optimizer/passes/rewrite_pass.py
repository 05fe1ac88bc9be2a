"""What a pass is: a graph goes in, a graph comes out, with whether it changed and what the pass declined."""

from dataclasses import dataclass
from typing import Protocol

from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph

# In this order: what hides a pattern goes first; pads and scales move into the weights before the nodes around them
# become one. The libraries come after our own rewrites, which say what they decline and why, and find what is left.
# Masks are only bare once they are through. What no output needs goes last.
PASSES = {
    "identity_elimination": "optimizer.passes.identity_elimination:eliminate_identities",
    "constant_folding": "optimizer.passes.constant_folding:fold_constants",
    "pad_into_conv": "optimizer.passes.pad_into_conv:fold_pads_into_convs",
    "batch_norm_into_conv": "optimizer.passes.batch_norm_into_conv:fold_batch_norms_into_convs",
    "affine_into_conv": "optimizer.passes.affine_into_conv:fold_affines_into_convs",
    "matmul_add_to_gemm": "optimizer.passes.matmul_add_to_gemm:fuse_matmul_adds",
    "batch_norm_into_gemm": "optimizer.passes.batch_norm_into_gemm:fold_batch_norms_into_gemms",
    "layer_norm_fusion": "optimizer.passes.layer_norm_fusion:fuse_layer_norms",
    "gelu_fusion": "optimizer.passes.gelu_fusion:fuse_gelus",
    "onnxscript_rewriter": "optimizer.passes.onnxscript_passes:rewrite_with_onnxscript",
    "onnxscript_optimizer": "optimizer.passes.onnxscript_passes:optimize_with_onnxscript",
    "onnxslim": "optimizer.passes.onnxslim_pass:slim",
    "mask_to_where": "optimizer.passes.mask_to_where:choose_mask_penalties",
    "dead_nodes": "optimizer.passes.dead_nodes:remove_dead_nodes",
}


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What a pass made. Where `changed` is false, `graph` is the one that went in.

    `declined` names the places that look like the pattern and were left as they are.
    """

    graph: Graph
    changed: bool
    declined: tuple[Declined, ...] = ()


class RewritePass(Protocol):
    """One rewrite. It requires a graph that the checker accepts.

    It ensures another such graph with the same inputs and outputs (names, types, shapes, values for every feed);
    the loop in `optimizer/rewrite.py` checks that and drops the pass where it does not hold.
    """

    def __call__(self, graph: Graph) -> Rewritten: ...
