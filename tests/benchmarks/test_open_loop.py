"""The open loop: latencies count from when a request was due, and a slow server does not slow the arrivals."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks.open_loop import Outcome, open_load, percentile

REQUEST = b"POST /x HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\nhi"


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    may_answer = threading.Event()
    count = 0

    def do_POST(self) -> None:
        self.rfile.read(2)
        assert self.may_answer.wait(30)
        type(self).count += 1
        self.send_response(200 if self.count % 2 else 503)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"done")

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class Listening(ThreadingHTTPServer):
    request_queue_size = 128


@pytest.fixture
def port() -> Iterator[int]:
    with Listening(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_every_request_is_sent_and_heard_though_none_waits_for_another(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.open_loop.CONNECTIONS", 32)
    Answering.may_answer.clear()
    timer = threading.Timer(0.5, Answering.may_answer.set)
    timer.start()
    outcome = open_load(port, REQUEST, per_second=50, seconds=0.3, seed=1)
    timer.join()
    assert 3 < len(outcome) < 40
    assert outcome.unanswered == 0
    assert set(outcome.status) == {200, 503}
    assert len(outcome.answered_ms()) + len(outcome.refused_ms()) == len(outcome)
    # What was due first waited longest, because nobody was answered before all had been sent.
    waits = outcome.done - outcome.due
    assert waits[0] > waits[-1] > 0.1


def test_only_answers_inside_the_deadline_are_good() -> None:
    done, status = np.array([0.1, 0.3, 0.1, 0.0]), np.array([200, 200, 503, 0], np.int16)
    outcome = Outcome(2.0, np.zeros(4), done, status)
    assert outcome.goodput(0.2) == 0.5
    assert outcome.unanswered == 1
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert percentile([], 99) != percentile([], 99)
