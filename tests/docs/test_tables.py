"""Tables in the documentation are what the code says."""

import re

import pytest

from docs import tables
from service.controls import Controls
from service.server import EXTENSIONS
from service.settings import Settings


def text_of(document: str) -> str:
    return (tables.FOLDER / document).read_text()


@pytest.mark.parametrize("document", tables.DOCUMENTS)
def test_the_tables_of_a_document_are_current(document: str) -> None:
    assert text_of(document) == tables.with_tables(text_of(document)), "run `python -m docs.tables`"


def test_every_table_is_in_a_document() -> None:
    marked = [name for document in tables.DOCUMENTS for name in re.findall("<!-- table (.+) -->", text_of(document))]
    assert sorted(marked) == sorted(tables.TABLES)


def test_a_table_that_drifted_is_seen_and_mended() -> None:
    drifted = text_of("operations.md").replace("| `--http-port` | `8000` |", "| `--http-port` | `80` |")
    assert drifted != text_of("operations.md")
    assert tables.with_tables(drifted) == text_of("operations.md")


def test_every_flag_has_a_row_with_a_description() -> None:
    rows = re.findall(r"^\| `(--[a-z-]+)` \| (\S+) \| (.+) \|$", tables.flags(), re.MULTILINE)
    assert len(rows) == len(Settings.model_fields)
    assert ("--id", "`enginehouse`", "name that /v2 answers; some clients expect 'triton'") in rows
    assert "--model-repository" in {flag for flag, default, _ in rows if default == "required"}


def test_the_extensions_in_the_text_are_those_that_work() -> None:
    always, sometimes = text_of("protocol.md").partition("the extensions that work:")[2].split(".")[:2]
    assert re.findall("`(.+?)`", always) == list(EXTENSIONS)
    assert re.findall("`(.+?)`", sometimes) == [*Controls().extensions, "system_shared_memory", "cuda_shared_memory"]
