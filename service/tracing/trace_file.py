"""Where traces are written: a JSON array that is complete after each write, or a numbered file for each part."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

_log = logging.getLogger(__name__)

Activities = Callable[[], list[dict[str, Any]]]


class TraceFile:
    """Writes on a thread of its own, in order: a slow disk must not hold up the queues.

    Args:
        path: of the file; an old one of that name is replaced by the first write.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_begun = False
        self._count = 0
        self._thread: ThreadPoolExecutor | None = None

    def save(self, traces: Sequence[Activities], is_numbered: bool) -> None:
        """Write the activities of some traces, soon.

        Args:
            traces: each tells its activities when it is asked, on the thread that writes.
            is_numbered: whether they go to a file of their own, with the next number behind its name.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "trace")
        self._thread.submit(self._write, traces, is_numbered)

    def close(self) -> None:
        """Wait until everything is written."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _write(self, traces: Sequence[Activities], is_numbered: bool) -> None:
        try:
            text = b",".join(orjson.dumps(activity) for trace in traces for activity in trace())
            if is_numbered:
                Path(f"{self._path}.{self._count}").write_bytes(b"[" + text + b"]")
                self._count += 1
            elif self._is_begun:
                self._append(b"," + text + b"]")
            else:
                Path(self._path).write_bytes(b"[" + text + b"]")
                self._is_begun = True
        except Exception as problem:
            _log.error("traces could not be written to %s: %s", self._path, problem)

    def _append(self, text: bytes) -> None:
        """Take the bracket at the end back, and go on."""
        with Path(self._path).open("r+b") as file:
            file.seek(-1, 2)
            file.truncate()
            file.write(text)
