"""`report.html`: the evidence of a version for a person, in one file that needs no network and no script."""

from pathlib import Path
from string import Template

from enginehouse.evidence import Evidence
from optimizer.report.data_sections import calibration_section, repair_section, worst_section
from optimizer.report.engine_section import engine_section
from optimizer.report.layer_section import layer_section
from optimizer.report.markup import Html, element, joined
from optimizer.report.record_section import record_section
from optimizer.report.summary_section import summary_section
from optimizer.report.trial_sections import candidates_section, speed_section, trade_section

REPORT_FILE = "report.html"
_SECTIONS = (
    ("Trade-off", trade_section),
    ("Speed", speed_section),
    ("Layers", layer_section),
    ("Engines", engine_section),
    ("Repairs", repair_section),
    ("Calibration", calibration_section),
    ("Worst row", worst_section),
    ("Candidates", candidates_section),
    ("Record", record_section),
)


def write_report(evidence: Evidence, path: Path) -> None:
    """Write the page; whatever the evidence lacks has no section."""
    path.write_text(report_page(evidence), encoding="utf-8")


def report_page(evidence: Evidence) -> str:
    """The whole page."""
    made = [(name, build(evidence)) for name, build in _SECTIONS]
    sections = [(name, html) for name, html in made if html]
    links = [element("a", name, href=f"#{_identifier(html)}") for name, html in sections]
    body = [summary_section(evidence), element("nav", *links), *(html for _, html in sections)]
    here = Path(__file__).parent
    title = f"{evidence.model} version {evidence.version}"
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=joined([title]), style=(here / "page.css").read_text(encoding="utf-8"), body=joined(body)
    )


def _identifier(section: Html) -> str:
    return section.split('id="', 1)[1].split('"', 1)[0]
