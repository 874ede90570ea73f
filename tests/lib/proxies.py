"""A proxy in front of an object store that counts, refuses, stalls and loses a share of the requests."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("refuse", "stall", "lose")
"""Answer 503 at once; never answer; hand the request on, and never answer."""

SLOW_DOWN = (
    b"""<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Slow down</Message></Error>"""
)

STALLED = 30.0
"""Seconds after which a stalled connection is closed, unless the client gives up before."""


class Proxy:
    """Hands requests on to a store, but one in ``every`` fails.

    Parameters
    ----------
    target
        URL of the store.
    every
        Requests from one fault to the next; 0 for none.
    faults
        Which ones, in turn.
    """

    def __init__(self, target: str, every: int = 0, faults: Sequence[str] = FAULTS) -> None:
        parts = urlsplit(target)
        self.target = (parts.hostname or "", parts.port or 80)
        self.every, self.faults = every, faults
        self.seen: Counter[str] = Counter()
        """How often each method and path was asked for."""
        self.failed: Counter[str] = Counter()
        """How often each fault happened."""
        self._numbers = count(1)
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve while the block runs."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def next_fault(self, request: str) -> str | None:
        """Count a request; the fault that it meets."""
        with self._lock:
            self.seen[request] += 1
            number = next(self._numbers)
            if not self.every or number % self.every:
                return None
            fault = self.faults[number // self.every % len(self.faults)]
            self.failed[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _any(self) -> None:
        fault = self.proxy.next_fault(f"{self.command} {urlsplit(self.path).path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "refuse":
            return self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
        answer = None if fault == "stall" else self._handed_on(body)
        if fault is None:
            assert answer is not None
            return self._answer(*answer)
        self.close_connection = True
        self.connection.settimeout(STALLED)
        start = time.monotonic()
        try:
            while time.monotonic() - start < STALLED and self.connection.recv(1):
                pass
        except OSError:
            pass
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

    def _handed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        store = http.client.HTTPConnection(*self.proxy.target, timeout=60)
        try:
            store.request(self.command, self.path, body or None, dict(self.headers))
            answer = store.getresponse()
            content = answer.read()
            length = [("Content-Length", answer.headers["Content-Length"])] if self.command == "HEAD" else []
            return answer.status, [*_end_to_end(answer.getheaders()), *length], content
        finally:
            store.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _end_to_end(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(k, v) for k, v in headers if k.lower() not in ("connection", "transfer-encoding", "content-length")]
