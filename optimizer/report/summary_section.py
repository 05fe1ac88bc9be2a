"""The top of the page: what must not be overlooked, what was published, and the figures that matter."""

from enginehouse.evidence import CalibrationRecord, CandidateRecord, EngineRecord, Evidence
from optimizer.evaluate.metrics import score_text
from optimizer.report.facts import chosen_record, mattering_batches, point_at, source_record, tolerance
from optimizer.report.figures import NOTHING, number_text, plural, size_text, times_text
from optimizer.report.markup import Html, element
from optimizer.report.value_plots import chip
from optimizer.search.tried import SOURCE

_TILES_IN_A_ROW = 5


def summary_section(evidence: Evidence) -> Html:
    """Name, warnings, outcome and tiles."""
    chosen = chosen_record(evidence)
    return element(
        "header",
        element("p", "Evidence of a build", class_="eyebrow"),
        element("h1", evidence.model, element("small", f"version {evidence.version}")),
        element("p", *_outcome(evidence, chosen), class_="outcome"),
        *_alarms(evidence),
        _tiles(evidence, chosen),
    )


def _outcome(evidence: Evidence, chosen: CandidateRecord | None) -> list[str]:
    if chosen is None or chosen.name == SOURCE:
        return [element("strong", "The original stays."), f" {evidence.reason}."]
    return [element("strong", chosen.name), " ", chip(chosen.precision), f" on {chosen.engine}: {evidence.reason}."]


def _alarms(evidence: Evidence) -> list[Html]:
    """In red what makes the figures mean less than they seem to, in yellow what to look at."""
    alarms = []
    calibration = evidence.calibration
    if calibration is not None and calibration.is_random:
        alarms.append(_random_alarm(calibration))
    alarms += [_unmeasured_alarm(record) for record in evidence.engines if not record.target.is_measured]
    warnings = calibration.warnings if calibration is not None else ()
    return alarms + [element("p", element("strong", "Data: "), warning, class_="alarm") for warning in warnings]


def _random_alarm(calibration: CalibrationRecord) -> Html:
    """The engine that won need not have ranges; it was judged on these rows all the same."""
    title, what = "Calibrated on random rows.", "The ranges of INT8 and every accuracy"
    if not calibration.rows:
        title, what = "Judged on random rows.", "Every accuracy"
    text = (
        f" No real data was given. {what} on this page {'come' if calibration.rows else 'comes'} from made-up rows; "
        "how real rows fare is unknown. Build again with --data before anybody relies on it."
    )
    return element("p", element("strong", title), text, class_="alarm red", role="alert")


def _unmeasured_alarm(record: EngineRecord) -> Html:
    if record.target.name == "host":
        title, text = f"{record.file} was not timed.", " It runs anywhere, and the target is another machine."
    else:
        title = f"{record.file} was not measured on its target."
        text = f" It was built for {record.target.name} on another machine; its speed and answers there are unknown."
    return element("p", element("strong", title), text, class_="alarm")


def _tiles(evidence: Evidence, chosen: CandidateRecord | None) -> Html:
    """In one row where they fit, otherwise in two of about equal length."""
    source = source_record(evidence)
    tiles = []
    if chosen is not None and source is not None:
        tiles += _speed_tiles(evidence, chosen)
        tiles += [_size_tile(source, chosen), _memory_tile(source, chosen), _metric_tile(evidence, chosen)]
    if evidence.test is not None:
        test = evidence.test
        scores = (
            f"source {score_text(test.metric, test.source)}, {plural(test.rows, 'row')} read once, after the choice"
        )
        tiles.append(_tile(f"{test.metric} on the test split", score_text(test.metric, test.chosen), scores))
    tiles = [tile for tile in tiles if tile]
    columns = len(tiles) if len(tiles) <= _TILES_IN_A_ROW else (len(tiles) + 1) // 2
    return element("div", *tiles, class_="tiles", style=f"--columns:{max(1, columns)}")


def _speed_tiles(evidence: Evidence, chosen: CandidateRecord) -> list[Html]:
    tiles = []
    if chosen.speedup is not None:
        lower = f"at least {times_text(chosen.speedup.lower_95)} at 95 %; source over engine, side by side"
        tiles.append(_tile("faster", times_text(chosen.speedup.median), lower, is_main=True))
    for batch in mattering_batches(evidence):
        point = point_at(chosen.latency, batch)
        if point is not None:
            detail = f"source {number_text(point.source_median_ms)} ms; 99 % below {number_text(point.p99_ms)} ms"
            tiles.append(_tile(f"latency at batch {batch}", f"{number_text(point.median_ms)} ms", detail))
    return tiles


def _size_tile(source: CandidateRecord, chosen: CandidateRecord) -> Html:
    if chosen.size_bytes is None or source.size_bytes is None:
        return Html("")
    detail = (
        f"source {size_text(source.size_bytes)}, {times_text(source.size_bytes / max(1, chosen.size_bytes))} as much"
    )
    return _tile("size of the engine", size_text(chosen.size_bytes), detail)


def _memory_tile(source: CandidateRecord, chosen: CandidateRecord) -> Html:
    if chosen.memory_bytes is None:
        return Html("")
    detail = f"source {size_text(source.memory_bytes)}" if source.memory_bytes is not None else "loaded and run"
    return _tile("memory", size_text(chosen.memory_bytes), detail)


def _metric_tile(evidence: Evidence, chosen: CandidateRecord) -> Html:
    allowed = tolerance(evidence)
    metric = chosen.metric
    if metric is None:
        if chosen.max_abs_difference is None:
            return Html("")
        return _tile("largest difference", number_text(chosen.max_abs_difference), "no data was given to score")
    drop = score_text(metric.name, metric.drop)
    upper = score_text(metric.name, metric.drop_upper_95)
    detail = f"source {score_text(metric.name, metric.source)}; below {upper} at 95 %, {allowed or NOTHING} allowed"
    return _tile(f"drop of {metric.name}, {plural(metric.rows, 'row')}", drop, detail)


def _tile(label: str, value: str, detail: str, is_main: bool = False) -> Html:
    return element(
        "div",
        element("span", label, class_="label"),
        element("span", value, class_="value"),
        element("span", detail, class_="detail"),
        class_="tile main" if is_main else "tile",
    )
