from benchmarks.built import Built, caption, point


def test_a_build_keeps_its_evidence_and_finds_what_was_chosen(mlp: Built) -> None:
    assert mlp.refusal == ""
    assert mlp.seconds > 0
    assert mlp.evidence is not None
    assert mlp.chosen is not None
    assert mlp.chosen.name == mlp.evidence.chosen
    one, three = point(mlp.chosen, 1), point(mlp.chosen, 3)
    assert one is not None
    assert one.source_median_ms > 0
    assert three is None


def test_a_refusal_is_a_sentence_and_no_evidence(refused: Built) -> None:
    assert refused.evidence is None
    assert refused.chosen is None
    assert "bf16 was asked for" in refused.refusal


def test_the_caption_tells_hardware_threads_and_versions_also_where_nothing_was_built(
    mlp: Built, refused: Built
) -> None:
    text = caption([refused, mlp, mlp])
    assert "cores" in text
    assert "threads" in text
    assert text.count("onnxruntime ") == 1
    assert "cores" in caption([refused])
