"""`--metrics-config` is read as Triton writes it, and what cannot be read is refused."""

import pytest

from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_text
from service.metrics.metrics_options import (
    DEFAULT_BUCKETS_MS,
    DEFAULT_QUANTILES,
    MetricsOptions,
    buckets_from_config,
    options_from_flags,
)


def test_by_default_there_are_counters_alone() -> None:
    assert options_from_flags([]) == MetricsOptions(True, False, False, (0.5, 0.9, 0.95, 0.99, 0.999))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["summary_latencies=true"], MetricsOptions(has_summaries=True)),
        (["histogram_latencies=true"], MetricsOptions(has_histograms=True)),
        (["counter_latencies=false", "summary_latencies=1"], MetricsOptions(False, has_summaries=True)),
        (["summary_latencies=true", "summary_latencies=FALSE"], MetricsOptions()),
        (["summary_quantiles=0.7:0.01,0.1:0.0.1,1"], MetricsOptions(quantiles=(0.1, 0.7, 1.0))),
    ],
)
def test_each_setting_is_heard_and_the_last_word_holds(texts: list[str], expected: MetricsOptions) -> None:
    assert options_from_flags(texts) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("summary_latencies", "counter_latencies=, .* expected"),
        ("gauges=true", "'gauges=true'"),
        ("summary_latencies=maybe", "'maybe' for a switch"),
        ("summary_quantiles=", "0.5:0.05"),
        ("summary_quantiles=1.5:0.1", "0.5:0.05"),
        ("summary_quantiles=nan", "0.5:0.05"),
        ("summary_quantiles=half", "0.5:0.05"),
    ],
)
def test_what_cannot_be_read_is_refused_and_named(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        options_from_flags([text])


def test_a_model_may_choose_the_buckets_of_its_first_responses() -> None:
    family = "metric_identifier { family: 'nv_inference_first_response_histogram_ms' }"
    buckets = "histogram_options { buckets: [ -1, 0.0, 1, 2.5 ] }"
    chosen = config_from_text(f"model_metrics {{ metric_control {{ {family} {buckets} }} }}", "m")
    silent = config_from_text(f"model_metrics {{ metric_control {{ {family} }} }}", "m")
    assert buckets_from_config(chosen) == (-1, 0, 1, 2.5)
    assert buckets_from_config(silent) == buckets_from_config(config_from_text("", "m")) == DEFAULT_BUCKETS_MS
    assert DEFAULT_QUANTILES[0] == 0.5
