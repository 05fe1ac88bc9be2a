from optimizer.graph.declined import Declined


def test_a_declined_place_reads_as_a_sentence() -> None:
    assert str(Declined("it is shared", "Conv 'c'")) == "Conv 'c': it is shared"


def test_a_step_that_declines_the_whole_graph_says_only_why() -> None:
    assert str(Declined("no layer has weights")) == "no layer has weights"
