from enginehouse.evidence import Evidence
from optimizer.report.latency_plot import LATENCY, THROUGHPUT, curves, latency_plot, line_legend


def test_the_chosen_engine_the_source_and_the_fastest_others_are_drawn(evidence: Evidence) -> None:
    shown = curves(evidence)
    assert {line: record.name for line, record in shown.items()} == {
        "chosen": evidence.chosen,
        "source": "source",
        "other-1": "openvino int8 s8s8",
        "other-2": "openvino bf16",
        "other-3": "int8, bias_correction",
    }
    assert "openvino bf16" in line_legend(shown)


def test_each_line_has_a_dot_per_batch_size_that_says_its_figures(evidence: Evidence) -> None:
    plot = latency_plot(evidence, LATENCY, 470, 320)
    assert plot is not None
    assert plot.count('class="dot') == 5 * 6
    assert "batch 8: 1.6 ms, 99 % below 2 ms, 5,000 rows/s" in plot
    assert plot.count("line tail") == 2


def test_throughput_has_no_tail(evidence: Evidence) -> None:
    plot = latency_plot(evidence, THROUGHPUT, 470, 320)
    assert plot is not None
    assert "line tail" not in plot


def test_the_source_is_drawn_once_when_it_stays(evidence: Evidence) -> None:
    assert list(curves(evidence.model_copy(update={"chosen": "source"})))[:2] == ["chosen", "other-1"]


def test_one_batch_size_is_no_curve(evidence: Evidence) -> None:
    single = [record.model_copy(update={"latency": record.latency[:1]}) for record in evidence.candidates]
    assert latency_plot(evidence.model_copy(update={"candidates": tuple(single)}), LATENCY, 470, 320) is None
