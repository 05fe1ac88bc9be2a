from enginehouse.evidence import CandidateRecord, EngineLayer, EngineProof
from optimizer.graph.graph import Graph
from optimizer.graph.layers import Layer, named_graph
from optimizer.layer_records import layer_records
from optimizer.search.layer_facts import LayerFacts
from optimizer.search.tried import Tried
from optimizer.trial import Trial

RECORD = CandidateRecord(name="int8", precision="int8", verdict="chosen", reason="")


def proof(precisions: dict[str, str], kept: dict[str, str] | None = None) -> EngineProof:
    layers = tuple(
        EngineLayer(name=name, operator="X", precision=precision, source_nodes=(name,))
        for name, precision in precisions.items()
    )
    return EngineProof(layers=layers, layer_share={}, kept=kept or {})


def test_a_layer_has_the_precision_that_the_engine_says_and_not_the_one_asked_for(small_graph: Graph) -> None:
    kept = {"Gemm_3": "the library did not fuse it"}
    trial = Trial(precision="int8", scheme="u8s8")
    chosen = Tried(trial=trial, record=RECORD, proof=proof({"MatMul_0": "int8", "Gemm_3": "fp32"}, kept))
    first, second = layer_records(named_graph(small_graph), chosen, ())
    assert (first.precision, first.reason) == ("int8", "inside the tolerance")
    assert (second.precision, second.reason) == ("fp32", "the library did not fuse it")


def test_a_layer_whose_values_do_not_fit_says_which(small_graph: Graph) -> None:
    kept = {"Gemm_3": "'hidden' reaches 1e+05, and FP16 ends at 65504"}
    chosen = Tried(trial=Trial(precision="fp16"), record=RECORD, kept=kept)
    assert layer_records(named_graph(small_graph), chosen, ())[1].reason == kept["Gemm_3"]


def test_a_layer_that_the_search_kept_says_what_lowering_it_costs(small_graph: Graph) -> None:
    trial = Trial(precision="int8", scheme="u8s8", layers={"Gemm_3": "fp32"})
    fact = LayerFacts(Layer("Gemm_3", "Gemm", "hidden", ("score_weight",), "scores"), 0.25, 2.0, 0.5)
    _, record = layer_records(named_graph(small_graph), Tried(trial=trial, record=RECORD), (fact,))
    assert record.reason == "kept in fp32 by the search: lowered alone it changes the outputs by 0.25"
    assert (record.sensitivity, record.time_ms, record.saved_ms) == (0.25, 2.0, 0.5)


def test_an_error_without_bounds_is_left_out_because_nothing_measured_it(small_graph: Graph) -> None:
    fact = LayerFacts(Layer("Gemm_3", "Gemm", "hidden", ("score_weight",), "scores"), float("inf"), None, None)
    chosen = Tried(trial=Trial(precision="int8", scheme="u8s8"), record=RECORD)
    assert layer_records(named_graph(small_graph), chosen, (fact,))[1].sensitivity is None
