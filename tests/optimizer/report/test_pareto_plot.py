import re

from enginehouse.evidence import Evidence
from optimizer.report.facts import drop_limit
from optimizer.report.pareto_plot import legend, pareto_plot


def marks(plot: str) -> dict[str, tuple[float, float]]:
    """Centre of each mark, by the name that its tooltip begins with."""
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*class="mark[^>]*><title>(.*?): ', plot)
    return {name: (float(x), float(y)) for x, y, name in found}


def test_every_candidate_with_both_figures_has_a_mark(evidence: Evidence) -> None:
    plot = pareto_plot(evidence, 960, 440)
    assert plot is not None
    drawn = plot.count('class="mark')
    assert drawn == len(evidence.candidates) - 2  # one was declined, one failed
    assert plot.count("mark chosen") == plot.count("mark source") == 1
    assert plot.count("mark rejected") == sum(record.verdict == "rejected" for record in evidence.candidates)


def test_faster_is_left_and_nearer_to_the_original_is_up(evidence: Evidence) -> None:
    plot = pareto_plot(evidence, 960, 440)
    assert plot is not None
    places = marks(plot)
    chosen, half = places["openvino int8 s8s8 + bf16, bias_correction, 3 layers fp32"], places["openvino bf16"]
    assert chosen[0] < half[0]
    assert chosen[1] > half[1]


def test_all_marks_lie_inside_the_plot(evidence: Evidence) -> None:
    for width, height in ((960, 440), (360, 340)):
        plot = pareto_plot(evidence, width, height)
        assert plot is not None
        assert all(40 < x < width and 0 < y < height - 30 for x, y in marks(plot).values())


def test_the_largest_drop_is_drawn_inside_the_plot_even_where_no_candidate_comes_near_it(evidence: Evidence) -> None:
    limit = drop_limit(evidence)
    assert limit is not None
    near = [record for record in evidence.candidates if record.metric is None or record.metric.drop < 0.1 * limit]
    height = 440
    plot = pareto_plot(evidence.model_copy(update={"candidates": tuple(near)}), 960, height)
    assert plot is not None
    assert "compressed from here on" not in plot
    line = re.search(r'y1="([\d.]+)" y2="[\d.]+" class="limit"', plot)
    name = re.search(r'y="([\d.]+)" class="limit-name', plot)
    assert line is not None
    assert name is not None
    lowest = max(y for _, y in marks(plot).values())
    assert lowest < float(line[1]) < float(name[1]) <= height - 46  # where the axis of time begins


def test_a_candidate_that_was_timed_briefly_says_so(evidence: Evidence) -> None:
    plot = pareto_plot(evidence, 960, 440)
    assert plot is not None
    assert "(measured briefly, in the search)" in plot


def test_one_candidate_makes_no_plot(evidence: Evidence) -> None:
    assert pareto_plot(evidence.model_copy(update={"candidates": evidence.candidates[:1]}), 960, 440) is None


def test_equal_candidates_make_a_plot_too(evidence: Evidence) -> None:
    source, equal = evidence.candidates[:2]
    twins = (source, equal.model_copy(update={"latency": source.latency}))
    assert pareto_plot(evidence.model_copy(update={"candidates": twins}), 960, 440) is not None


def test_the_legend_names_the_precisions_that_are_drawn(evidence: Evidence) -> None:
    text = legend(evidence.candidates)
    assert "bf16" in text
    assert "fp16" not in text  # the one candidate of that precision failed
