import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from enginehouse.evidence import CandidateRecord, Evidence, TargetRecord
from optimizer.report.html import report_page, write_report

EvidenceMaker = Callable[..., Evidence]
_VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and notes tags that are closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def sections(self) -> list[str | None]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]

    def classes(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]


def test_the_page_is_one_well_formed_file_that_needs_no_network(evidence: Evidence, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(evidence, path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    outside = [attributes for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert all((attributes["href"] or "").startswith("#") for attributes in outside)


def test_every_part_of_the_evidence_has_its_section(evidence: Evidence) -> None:
    page = Page(report_page(evidence))
    assert page.sections() == [
        "trade",
        "speed",
        "layers",
        "engines",
        "repairs",
        "calibration",
        "worst",
        "trials",
        "record",
    ]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{name}" for name in page.sections()]


def test_the_figures_of_the_choice_stand_at_the_top(evidence: Evidence) -> None:
    text = Page(report_page(evidence)).text
    for figure in ("resnet50", "version 3", "6.25×", "at least 6.12×", "1.6 ms", "15.6 MB", "0.58%", "90.50%"):
        assert figure in text[:900]


def test_names_of_layers_cannot_become_tags(evidence: Evidence) -> None:
    evil = "<script>alert(1)</script>"
    layer = evidence.layers[0].model_copy(update={"name": evil, "reason": '"><img src=x>'})
    page = Page(report_page(evidence.model_copy(update={"layers": (layer,), "model": evil, "reason": evil})))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(tag == "img" for tag, _ in page.tags)
    assert page.text.count("<script>alert(1)</script>") >= 3


def test_random_calibration_is_in_red_before_anything_else(evidence: Evidence) -> None:
    assert evidence.calibration is not None
    honest = report_page(evidence)
    assert "alarm red" not in honest
    made_up = evidence.calibration.model_copy(update={"is_random": True})
    page = report_page(evidence.model_copy(update={"calibration": made_up}))
    assert page.index('class="alarm red"') < page.index('class="tiles"')
    assert "Calibrated on random rows." in page
    assert "made-up rows were read" in page


def test_an_engine_that_was_not_measured_on_its_target_says_so(evidence: Evidence) -> None:
    target = TargetRecord(name="sm_89", compute_capability="8.9", is_measured=False)
    plan = evidence.engines[0].model_copy(update={"file": "model.sm89.plan", "target": target, "speedup": None})
    text = Page(report_page(evidence.model_copy(update={"engines": (plan,)}))).text
    assert "model.sm89.plan was not measured on its target." in text
    assert "not measured on target" in text
    assert "compute capability 8.9" in text


def test_a_layer_shows_its_precision_sensitivity_times_and_reason(evidence: Evidence) -> None:
    text = Page(report_page(evidence)).text
    layer = evidence.layers[4]
    assert layer.sensitivity is not None
    assert f"/layer0/block.4/conv/Conv Conv fp32 {layer.sensitivity:.3g}" in text
    assert "kept in fp32 by the search: lowered alone it changes the outputs by 0.031" in text


def test_the_worst_row_shows_both_answers(evidence: Evidence) -> None:
    assert evidence.worst is not None
    page = Page(report_page(evidence))
    assert "Row 417 of the judged rows, output 'scores': it differs by up to 0.41" in page.text
    assert f"{evidence.worst.source[0]:.6g} {evidence.worst.built[0]:.6g}" in page.text
    # Two bars per value, in a plot for wide and one for narrow screens, and two swatches that explain them.
    assert len(page.classes("pair")) == 2 * 2 * len(evidence.worst.source) + 2


def test_read_back_proofs_say_shares_and_what_was_fused(evidence: Evidence) -> None:
    page = Page(report_page(evidence))
    assert "int8 90%" in page.text
    assert "60 layers as it runs them, 60 of them fused from several nodes" in page.text
    assert "Conv_3, Relu_3" in page.text
    assert "1 layer in a higher precision than was asked" in page.text
    assert "INFERENCE_PRECISION_HINT = bf16" in page.text


def test_repairs_show_their_gains(evidence: Evidence) -> None:
    text = Page(report_page(evidence)).text
    assert "bias correction 2.24% 0.58% 1.66% 53 layers, mean 0.02 -> 0.0004" in text


def test_what_tolerance_would_buy_is_told(evidence: Evidence, evidence_with: EvidenceMaker) -> None:
    text = Page(report_page(evidence)).text
    assert "+0.1 % would buy nothing" in text
    assert "+1 % would buy 1.08× the speed of now: openvino int8 s8s8, with a drop of 1.42%." in text
    near = evidence.candidates[5].metric
    assert near is not None
    cheap = evidence.candidates[5].model_copy(
        update={"metric": near.model_copy(update={"drop": 0.0104, "drop_upper_95": 0.0108})}
    )
    candidates = (*evidence.candidates[:5], cheap)
    text = Page(report_page(evidence_with(candidates=candidates))).text
    assert "+0.1 % would buy 1.08× the speed of now" in text


def test_hundreds_of_candidates_and_layers_all_have_their_rows(evidence_with: EvidenceMaker) -> None:
    big = evidence_with(trials=192, layer_count=300)
    text = report_page(big)
    page = Page(text)
    assert "All 200 candidates" in page.text
    assert page.text.count("layers fp32 int8_dynamic") > 10
    assert "300 layers of the published engine" in page.text
    assert "/layer49/block.5/conv/Conv" in page.text
    assert len(text) < 700_000


def test_bare_evidence_makes_a_page_too(evidence: Evidence) -> None:
    source = CandidateRecord(name="source", precision="fp32", verdict="chosen", reason="nothing is faster")
    bare: dict[str, Any] = {
        "candidates": (source,),
        "chosen": "source",
        "reason": "nothing is faster",
        "recipe": {},
        "passes": (),
        "test": None,
        "layers": (),
        "repairs": (),
        "calibration": None,
        "worst": None,
        "engines": tuple(engine.model_copy(update={"proof": None}) for engine in evidence.engines),
    }
    page = Page(report_page(evidence.model_copy(update=bare)))
    assert page.sections() == ["trade", "engines", "trials", "record"]
    assert "The original stays. nothing is faster." in page.text
    assert "Nothing was measured here." in page.text


def test_values_that_are_not_finite_do_no_harm(evidence: Evidence) -> None:
    assert evidence.worst is not None
    worst = evidence.worst.model_copy(update={"source": (1.0, float("-inf")), "built": (float("nan"), 2.0)})
    ruined = evidence.candidates[2].model_copy(update={"metric": None, "max_abs_difference": float("inf")})
    page = report_page(evidence.model_copy(update={"worst": worst, "candidates": (*evidence.candidates, ruined)}))
    assert "NaN" in Page(page).text or "nan" in Page(page).text
    assert not re.search(r'(?:x|y|cx|cy|width|height)="(?:nan|inf|-inf)"', page)


def test_without_a_metric_the_difference_is_what_is_lost(evidence: Evidence) -> None:
    plain = tuple(record.model_copy(update={"metric": None}) for record in evidence.candidates)
    page = Page(report_page(evidence.model_copy(update={"candidates": plain})))
    assert "largest difference, less is higher" in page.text
    assert "What more tolerance would buy" not in page.text


def test_a_gpu_is_named_where_there_is_one(evidence: Evidence) -> None:
    assert "GPU" not in Page(report_page(evidence)).text
    hardware = evidence.hardware.model_copy(update={"gpu": "a card", "compute_capability": "8.9", "driver": "580.1"})
    text = Page(report_page(evidence.model_copy(update={"hardware": hardware}))).text
    assert "a card, compute capability 8.9, driver 580.1" in text
