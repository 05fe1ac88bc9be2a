from optimizer.candidates import Candidate
from optimizer.evaluate.distance import OutputDistance
from optimizer.evaluate.verify import Verification, failed
from optimizer.search import Choice
from optimizer.version_record import fallback_name, record_candidate

DECLINED = Candidate("int8", "int8", None, "give --data")
RUN = Candidate("int8", "int8", None)


def test_a_declined_candidate_has_a_reason_and_no_size() -> None:
    record = record_candidate(DECLINED, {})
    assert (record.verdict, record.reason, record.size_bytes) == ("declined", "give --data", None)


def test_a_failed_candidate_says_what_the_library_said() -> None:
    record = record_candidate(RUN, {"int8": failed("no kernel")})
    assert (record.verdict, record.reason) == ("failed", "no kernel")


def test_an_infinite_difference_is_left_out_because_json_has_none() -> None:
    distance = OutputDistance()
    distance.largest = float("inf")
    record = record_candidate(RUN, {"int8": Verification(False, "not finite", None, distance, None)})
    assert (record.verdict, record.max_abs_difference) == ("rejected", None)


def choice(fp32_verdict: str) -> Choice:
    base = record_candidate(DECLINED, {})
    records = [
        base.model_copy(update={"name": "source", "verdict": "accepted"}),
        base.model_copy(update={"name": "fp32", "verdict": fp32_verdict}),
        base.model_copy(update={"name": "int8", "verdict": "chosen"}),
    ]
    return Choice("int8", "", tuple(records))


def test_the_fallback_is_the_rewritten_graph_unless_it_was_rejected() -> None:
    assert fallback_name(choice("accepted")) == "fp32"
    assert fallback_name(choice("rejected")) == "source"
