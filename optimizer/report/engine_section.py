"""The engines that lie in the version, and what each says of itself after it was built."""

from enginehouse.evidence import EngineProof, EngineRecord, Evidence
from optimizer.report.figures import number_text, plural, times_text
from optimizer.report.markup import Html, element, html_table, joined, number_cell, section
from optimizer.report.value_plots import chip, share_bar


def engine_section(evidence: Evidence) -> Html:
    """One card per engine file."""
    cards = [_card(record) for record in evidence.engines]
    return section(
        "engines",
        "Engines in this version",
        element(
            "p",
            "What each engine computes in is read back from the engine itself after it was built, never assumed.",
            class_="note",
        ),
        element("div", *cards, class_="engines"),
    )


def _card(record: EngineRecord) -> Html:
    facts = [("runs on", f"{record.platform}, {record.provider}"), ("made for", _target(record))]
    if record.settings:
        facts.append(("settings", ", ".join(f"{key} = {value}" for key, value in sorted(record.settings.items()))))
    facts.append(("against the source", _speed(record)))
    rows = [joined([element("dt", term), element("dd", text)]) for term, text in facts]
    return element(
        "article",
        element("h3", element("code", record.file), element("span", record.role, class_=f"role {record.role}")),
        element("p", chip(record.precision), f" {record.candidate}"),
        element("dl", *rows),
        *(_proof(record.proof) if record.proof else [element("p", "Not read back.", class_="note")]),
        class_="card engine",
    )


def _target(record: EngineRecord) -> str:
    target = record.target
    words = [target.name, *target.isa]
    if target.compute_capability:
        words.append(f"compute capability {target.compute_capability}")
    words += [f"{name} {version}" for name, version in sorted(target.libraries.items())]
    return ", ".join(words)


def _speed(record: EngineRecord) -> str:
    if not record.target.is_measured:
        return "not measured on target"
    return f"{times_text(record.speedup)} as fast" if record.speedup is not None else "not measured"


def _proof(proof: EngineProof) -> list[Html]:
    parts = [element("h4", "share of the computing layers"), share_bar(proof.layer_share)]
    if proof.time_share is not None:
        parts += [element("h4", "share of the time"), share_bar(proof.time_share)]
    if proof.kept:
        kept = [(element("td", name, class_="path"), reason) for name, reason in proof.kept.items()]
        title = f"{plural(len(kept), 'layer')} in a higher precision than was asked"
        parts.append(element("details", element("summary", title), html_table(("layer", "why"), kept)))
    if proof.layers:
        parts.append(_fusions(proof))
    return parts


def _fusions(proof: EngineProof) -> Html:
    rows = [
        (
            element("td", layer.name, class_="path"),
            layer.operator,
            element("td", chip(layer.precision)),
            number_cell(number_text(layer.time_ms), layer.time_ms),
            element("td", ", ".join(layer.source_nodes), class_="path"),
        )
        for layer in proof.layers
    ]
    fused = sum(len(layer.source_nodes) > 1 for layer in proof.layers)
    title = f"{plural(len(rows), 'layer')} as it runs them, {fused} of them fused from several nodes"
    headings = ("layer", "type", "precision", "ms", "made from")
    return element("details", element("summary", title), html_table(headings, rows, "sortable"))
