"""What it takes to trust and to repeat a build: source, rewrites, recipe, machine, libraries and digests."""

from collections.abc import Mapping
from typing import Any

from enginehouse.evidence import Evidence
from enginehouse.hardware import Hardware
from optimizer.report.figures import plural, size_text
from optimizer.report.markup import Html, element, html_table, joined, number_cell, section


def record_section(evidence: Evidence) -> Html:
    """The record of the build."""
    source = evidence.source
    hardware = evidence.hardware
    golden = "made-up" if evidence.golden.synthetic else "the user's"
    facts = {
        "source": f"{source.file} ({source.format}, {size_text(source.size_bytes)})",
        "SHA-256": source.sha256,
        "built": evidence.created_at,
        "machine": f"{hardware.cpu}, {plural(hardware.cores, 'core')}, {hardware.architecture}",
        "instruction sets": " ".join(hardware.isa) or "none that matter",
        **_gpu(hardware),
        "threads": str(evidence.threads),
        "golden samples": f"{plural(evidence.golden.rows, 'row')}, {golden}",
    }
    return section(
        "record",
        "Record of the build",
        _facts(facts),
        _passes(evidence),
        _folded("Recipe", {key: value for key, value in evidence.recipe.items() if value is not None}),
        _folded("Libraries", evidence.libraries),
        _folded("Digests of the files, SHA-256", evidence.files),
    )


def _gpu(hardware: Hardware) -> dict[str, str]:
    if hardware.gpu is None:
        return {}
    return {"GPU": f"{hardware.gpu}, compute capability {hardware.compute_capability}, driver {hardware.driver}"}


def _facts(facts: Mapping[str, str]) -> Html:
    rows = [joined([element("dt", term), element("dd", text, class_="path")]) for term, text in facts.items()]
    return element("dl", *rows, class_="facts")


def _passes(evidence: Evidence) -> Html:
    rows = [
        (
            element("td", record.name, class_="path"),
            element("td", element("span", record.outcome, class_=f"verdict {record.outcome}")),
            number_cell(str(record.nodes_before), record.nodes_before),
            number_cell(str(record.nodes_after), record.nodes_after),
            element("td", record.detail, class_="why"),
        )
        for record in evidence.passes
    ]
    kept = sum(record.outcome == "kept" for record in evidence.passes)
    title = f"Rewrites: {kept} of {len(rows)} changed the graph"
    table = html_table(("pass", "outcome", "nodes before", "after", "what it did"), rows)
    return element("details", element("summary", title), table)


def _folded(title: str, entries: Mapping[str, Any]) -> Html:
    rows = [(element("td", key), element("td", str(value), class_="path")) for key, value in entries.items()]
    return element("details", element("summary", title), html_table(("", ""), rows))
