"""Which metrics of requests there are: `--metrics-config` in Triton's words, and what a model says of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from enginehouse.config_rules import FIRST_RESPONSE
from enginehouse.errors import InvalidInput
from enginehouse.proto.model_config_pb2 import ModelConfig

DEFAULT_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
DEFAULT_BUCKETS_MS = (100.0, 500.0, 2000.0, 5000.0)

_SWITCHES = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


@dataclass(slots=True, frozen=True)
class MetricsOptions:
    """What is told of latencies.

    Attributes:
        has_counters: sums of microseconds, which are Triton's default.
        has_histograms: how long decoupled models take to their first response.
        has_summaries: quantiles over the last minute.
        quantiles: which ones, as ranks between 0 and 1.
    """

    has_counters: bool = True
    has_histograms: bool = False
    has_summaries: bool = False
    quantiles: tuple[float, ...] = DEFAULT_QUANTILES


def options_from_flags(texts: Sequence[str]) -> MetricsOptions:
    """Read values of `--metrics-config`; the last of several holds. Raises `InvalidInput`."""
    options = MetricsOptions()
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in _SETTINGS:
            raise InvalidInput(
                f"--metrics-config has '{text}'; {', '.join(f'{known}=' for known in _SETTINGS)} expected."
            )
        options = _SETTINGS[name](options, value)
    return options


def buckets_from_config(config: ModelConfig) -> tuple[float, ...]:
    """Bounds in milliseconds of the histogram of first responses."""
    for control in config.model_metrics.metric_control:
        if control.metric_identifier.family == FIRST_RESPONSE and control.histogram_options.buckets:
            return tuple(control.histogram_options.buckets)
    return DEFAULT_BUCKETS_MS


def _is_on(value: str) -> bool:
    try:
        return _SWITCHES[value.lower()]
    except KeyError:
        raise InvalidInput(f"--metrics-config has '{value}' for a switch; true or false expected.") from None


def _quantiles(value: str) -> tuple[float, ...]:
    """`rank:error,...`; the errors are not read, ours is a hundredth of the value whatever is allowed."""
    try:
        ranks = [float(part.partition(":")[0]) for part in value.split(",")]
    except ValueError:
        ranks = []
    if not ranks or not all(0 <= rank <= 1 for rank in ranks):
        raise InvalidInput(
            f"--metrics-config has summary_quantiles={value}; 0.5:0.05,0.99:0.001 and the like expected."
        )
    return tuple(sorted(set(ranks)))


_SETTINGS: dict[str, Callable[[MetricsOptions, str], MetricsOptions]] = {
    "counter_latencies": lambda options, value: replace(options, has_counters=_is_on(value)),
    "histogram_latencies": lambda options, value: replace(options, has_histograms=_is_on(value)),
    "summary_latencies": lambda options, value: replace(options, has_summaries=_is_on(value)),
    "summary_quantiles": lambda options, value: replace(options, quantiles=_quantiles(value)),
}
