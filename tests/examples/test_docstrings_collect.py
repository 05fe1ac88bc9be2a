from pathlib import Path

import numpy as np
import pytest

from examples.docstrings import collect

SOURCES = {
    "turtle.py": '"""Draw with a turtle on a canvas."""\ndef f():\n    """Turn the turtle by some degrees."""\n',
    "email/message.py": 'class M:\n    """One message with HTTPServer-like parse_headers."""\n',
    "email/test/test_message.py": '"""A test that nobody wants to read."""\n',
    "mailbox.py": '"""Turn the turtle by some degrees."""\ndef short():\n    """Too short."""\n',
    "unlisted.py": '"""A module of no family at all here."""\n',
    "queue.py": '"""This one has a syntax error,\n',
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for name, text in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_words_are_taken_apart_at_case_and_underscores_and_cut_at_48() -> None:
    words = collect.words_of("HTTPServer parse_headers(x2) é")
    assert words == ["http", "server", "parse", "headers", "(", "x", "2", ")", "é"]
    assert len(collect.words_of("word " * 100)) == 48


def test_rows_are_labelled_by_family_without_tests_short_texts_and_what_two_families_share(library: Path) -> None:
    rows = dict(collect.labelled_rows(library))
    names = list(collect.FAMILIES)
    assert {" ".join(words[:4]): names[label] for words, label in rows.items()} == {
        "draw with a turtle": "windows",
        "one message with http": "mail",
    }


def test_no_module_is_in_two_families() -> None:
    modules = [module for family in collect.FAMILIES.values() for module in family]
    assert len(modules) == len(set(modules))


def test_splits_keep_the_mix_of_families_and_no_row_twice() -> None:
    rows: list[collect.Row] = [((f"word{number}",), number % 8) for number in range(800)]
    splits = collect.split_rows(rows)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 480,
        "calibration": 80,
        "validation": 120,
        "test": 120,
    }
    assert sorted(row for split in splits.values() for row in split) == sorted(rows)
    for split in splits.values():
        assert len(set(np.bincount([label for _, label in split]))) == 1


def test_tokens_are_padded_and_unknown_words_are_one_token() -> None:
    vocabulary = collect.vocabulary_of([(("a", "b", "a"), 0), (("a", "c"), 1)])
    assert vocabulary == ["<padding>", "<unknown>", "a", "b", "c"]
    numbers = {word: number for number, word in enumerate(vocabulary)}
    assert collect.tokens_of(["c", "zebra", "a"], numbers)[:5].tolist() == [4, 1, 2, 0, 0]
