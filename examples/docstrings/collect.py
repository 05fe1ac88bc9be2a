"""Collect the docstrings of the Python standard library as rows of tokens, labelled by what they are about.

Each row is the first 48 words of one docstring; its label is the family that its module belongs to.

    python -m examples.docstrings.collect            writes docstrings.npz and vocabulary.txt
    python -m examples.docstrings.collect --help     what can be changed
"""

import argparse
import ast
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Label by position: the top-level packages and modules of each family.
FAMILIES: dict[str, frozenset[str]] = {
    "windows": frozenset({"idlelib", "tkinter", "turtle", "turtledemo"}),
    "tasks": frozenset({"asyncio", "concurrent", "multiprocessing", "queue", "sched", "subprocess", "threading"}),
    "mail": frozenset({"email", "imaplib", "mailbox", "mailcap", "nntplib", "poplib", "smtplib", "smtpd"}),
    "web": frozenset(
        {"cgi", "ftplib", "html", "http", "socket", "socketserver", "ssl", "telnetlib", "urllib", "wsgiref", "xml"}
        | {"xmlrpc"}
    ),
    "code": frozenset(
        {"ast", "codeop", "ctypes", "dis", "distutils", "importlib", "inspect", "lib2to3", "pkgutil", "pyclbr", "runpy"}
        | {"symtable", "tokenize", "typing", "zipimport", "ensurepip", "venv", "modulefinder", "compileall"}
    ),
    "numbers": frozenset(
        {"_pydecimal", "calendar", "colorsys", "datetime", "fractions", "ipaddress", "numbers", "random", "statistics"}
        | {"zoneinfo", "heapq", "bisect", "_strptime"}
    ),
    "files": frozenset(
        {"_pyio", "bz2", "codecs", "dbm", "encodings", "fileinput", "filecmp", "genericpath", "glob", "gzip", "lzma"}
        | {"ntpath", "os", "pathlib", "pickle", "posixpath", "shelve", "shutil", "tarfile", "tempfile", "zipfile"}
    ),
    "faults": frozenset(
        {"bdb", "cmd", "cProfile", "doctest", "faulthandler", "logging", "pdb", "profile", "pstats", "pydoc", "trace"}
        | {"traceback", "tracemalloc", "unittest", "warnings"}
    ),
}
SHARES = {"train": 0.6, "calibration": 0.1, "validation": 0.15, "test": 0.15}
SEED = 1991
LENGTH = 48
LEAST_WORDS = 5
MOST_ROWS = 900
PADDING, UNKNOWN = 0, 1
WORDS = 4000
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\sA-Za-z0-9_]")

# The words of one docstring, and its label.
Row = tuple[tuple[str, ...], int]


def docstrings(library: Path) -> Iterator[tuple[str, str]]:
    """Every docstring below a folder with the package or module it comes from; tests are left out."""
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if {"site-packages", "test", "tests", "idle_test"} & set(parts):
            continue
        module = parts[0].removesuffix(".py")
        for text in texts_of(path):
            yield module, text


def texts_of(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library has invalid escapes on purpose
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def words_of(text: str) -> list[str]:
    """Words in lower case, names in camel case and with underscores taken apart; every other sign by itself."""
    return [word.lower() for word in WORD.findall(text)][:LENGTH]


def labelled_rows(library: Path) -> list[Row]:
    """Each row of words once, at most `MOST_ROWS` of a family; a row that two families share is left out."""
    families = {module: label for label, modules in enumerate(FAMILIES.values()) for module in modules}
    labels: dict[tuple[str, ...], set[int]] = {}
    for module, text in docstrings(library):
        words = tuple(words_of(text))
        if module in families and len(words) >= LEAST_WORDS:
            labels.setdefault(words, set()).add(families[module])
    rows = [(words, found.pop()) for words, found in labels.items() if len(found) == 1]
    order = np.random.default_rng(SEED).permutation(len(rows))
    kept: Counter[int] = Counter()
    chosen = []
    for position in order:
        row = rows[position]
        if kept[row[1]] < MOST_ROWS:
            kept[row[1]] += 1
            chosen.append(row)
    return chosen


def split_rows(rows: list[Row]) -> dict[str, list[Row]]:
    """Each split has the same mix of families, in random order."""
    splits: dict[str, list[Row]] = {name: [] for name in SHARES}
    for label in range(len(FAMILIES)):
        family = [row for row in rows if row[1] == label]
        ends = np.round(np.cumsum(list(SHARES.values())) * len(family)).astype(int)
        for name, begin, end in zip(SHARES, [0, *ends], ends, strict=False):
            splits[name] += family[begin:end]
    random = np.random.default_rng(SEED)
    return {name: [split[position] for position in random.permutation(len(split))] for name, split in splits.items()}


def vocabulary_of(rows: list[Row]) -> list[str]:
    """The most frequent words of the training rows, by number: 0 fills a row up, 1 is every other word."""
    counts = Counter(word for words, _ in rows for word in words)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return ["<padding>", "<unknown>", *ranked[: WORDS - 2]]


def tokens_of(words: tuple[str, ...] | list[str], numbers: dict[str, int]) -> npt.NDArray[np.int64]:
    tokens = np.full(LENGTH, PADDING, np.int64)
    tokens[: len(words)] = [numbers.get(word, UNKNOWN) for word in words]
    return tokens


def tokenized(rows: list[Row], numbers: dict[str, int]) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    return ((tokens_of(words, numbers), label) for words, label in rows)


def is_new(tokens: npt.NDArray[np.int64], seen: set[bytes]) -> bool:
    """Whether these tokens were not there before, in this split or another: words that are unknown read alike."""
    key = tokens.tobytes()
    if key in seen:
        return False
    seen.add(key)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Collect the docstrings of the Python standard library.")
    parser.add_argument("--target", type=Path, default=Path(__file__).parent, help="folder to write into")
    parser.add_argument("--library", type=Path, default=Path(sysconfig.get_paths()["stdlib"]), help="where it lies")
    given = parser.parse_args()
    splits = split_rows(labelled_rows(given.library))
    vocabulary = vocabulary_of(splits["train"])
    numbers = {word: number for number, word in enumerate(vocabulary)}
    arrays: dict[str, Any] = {}
    seen: set[bytes] = set()
    for name, rows in splits.items():
        kept = [(tokens, label) for tokens, label in tokenized(rows, numbers) if is_new(tokens, seen)]
        arrays[f"{name}/tokens"] = np.stack([tokens for tokens, _ in kept])
        arrays[f"{name}/label"] = np.array([label for _, label in kept], np.int64)
        print(f"{name}: {len(kept)} rows, {Counter(label for _, label in kept).most_common()}")
    np.savez_compressed(given.target / "docstrings.npz", **arrays)
    (given.target / "vocabulary.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
