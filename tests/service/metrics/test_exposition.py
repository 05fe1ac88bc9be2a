"""What is written, any Prometheus reader reads again."""

import math

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.metrics.exposition import exposition_from_metrics


def test_odd_labels_and_numbers_survive_a_reader() -> None:
    metric = Metric("odd", 'help with \\ and\nnewline and "quotes"', "gauge")
    label = 'a "quoted" \\ back\nslash'
    numbers = [0, 1.5, 1e-9, 1e300, math.inf, -math.inf, 123456789012345]
    for at, number in enumerate(numbers):
        metric.add_sample("odd", {"at": str(at), "label": label}, number)
    (family,) = text_string_to_metric_families(exposition_from_metrics([metric]))
    assert [sample.value for sample in family.samples] == numbers
    assert {sample.labels["label"] for sample in family.samples} == {label}
    assert family.documentation == metric.documentation


def test_what_is_no_number_is_written_as_such_and_a_series_without_labels_without_braces() -> None:
    metric = Metric("odd", "help", "gauge")
    metric.add_sample("odd", {}, math.nan)
    text = exposition_from_metrics([metric])
    assert text.splitlines()[-1] == "odd NaN"
    (family,) = text_string_to_metric_families(text)
    assert math.isnan(family.samples[0].value)
