"""HTML and SVG by construction: what is not markup already is escaped, so no name of a layer can become a tag."""

from collections.abc import Sequence
from html import escape


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | float | None) -> Html:
    """Build one element; an attribute that is None is left out, `class_` is `class`, `aria_label` `aria-label`."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = "".join(f' {key}="{escape(_attribute_text(value))}"' for key, value in given.items())
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(parts: Sequence[str]) -> Html:
    """Put parts behind one another."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def section(identifier: str, title: str, *children: str) -> Html:
    """A chapter of the page."""
    return element("section", element("h2", title), *children, id=identifier)


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]], class_: str = "") -> Html:
    """A table in a box of its own that scrolls; a cell is text, or a finished `td`; headings of figures stand right."""
    kinds = ["number" if 'class="number' in cell else None for cell in rows[0]] if rows else [None] * len(headings)
    head = element(
        "tr", *(element("th", heading, scope="col", class_=kind) for heading, kind in zip(headings, kinds, strict=True))
    )
    lines = [element("tr", *(cell if _is_cell(cell) else element("td", cell) for cell in row)) for row in rows]
    table = element("table", element("thead", head), element("tbody", *lines), class_=class_ or None)
    return element("div", table, class_="scroll", tabindex="0")


def number_cell(text: str, value: float | None = None) -> Html:
    """A figure, set to the right; the value is what its column is sorted by."""
    return element("td", text, class_="number", data_value=None if value is None else f"{value:.9g}")


def _is_cell(cell: str) -> bool:
    return isinstance(cell, Html) and cell.startswith("<td")


def _attribute_text(value: str | float) -> str:
    """Coordinates need no more than two digits after the point."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
