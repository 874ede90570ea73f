"""Google Cloud Storage on loopback: an emulator, and what it leaves out of the protocol that tensorstore relies on.

Left out: conditions on an object's generation, generations of what is read, the last bytes of an object, listings
between two names, and more than one request at a time.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from io import BytesIO
from urllib.parse import parse_qsl, unquote, urlsplit

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

BUCKET = "volumes"


class Memory(Storage):
    """Objects in memory."""

    def _write_config_to_file(self) -> None:
        """Nowhere: a table of all objects at every change takes longer and longer."""


class Server(ThreadingHTTPServer):
    """A thread for each connection; one request is carried out at a time."""

    daemon_threads = True
    request_queue_size = 128
    """More connections than tensorstore opens at once: one that is refused is tried again a second later."""

    def __init__(self) -> None:
        storage = Memory(use_memory_fs=True)
        create_bucket(BUCKET, storage)
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), partial(Handler, storage))


class Handler(RequestHandler):
    """The emulator's answers under Google's conditions."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answer(super().do_GET)

    def do_POST(self) -> None:
        self._answer(super().do_POST)

    def do_DELETE(self) -> None:
        self._answer(super().do_DELETE)

    def _answer(self, emulate: Callable[[], None]) -> None:
        """An answer is made at one moment, and no slow client makes others wait."""
        connection = self.rfile, self.wfile
        self.rfile = BytesIO(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.wfile = BytesIO()
        try:
            with self.server.lock:
                self._conditioned(emulate)
            connection[1].write(self.wfile.getvalue())
        finally:
            self.rfile, self.wfile = connection

    def _conditioned(self, emulate: Callable[[], None]) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if self.command == "GET" and query.keys() & {"startOffset", "endOffset"}:
            return self._list(query.get("startOffset", ""), query.get("endOffset"))
        objects = self.storage.objects.get(BUCKET, {})
        self.found = objects.get(query.get("name") or unquote(url.path.rpartition("/")[2]))
        if (refusal := self._refusal(query)) is not None:
            self.found = None
            return self._send(refusal)
        if self.found and (last := self.headers.get("Range", "")).startswith("bytes=-"):
            first = max(0, int(self.found["size"]) - int(last.removeprefix("bytes=-")))
            self.headers.replace_header("Range", f"bytes={first}-")
        emulate()

    def _refusal(self, query: dict[str, str]) -> HTTPStatus | None:
        """Why a request is not carried out: ``ifGenerationMatch``, ``ifGenerationNotMatch``; 0 is that of no object."""
        if not self.found and self.command != "POST":
            return None  # not found is told first
        generation = self.found["generation"] if self.found else "0"
        if query.get("ifGenerationMatch", generation) != generation:
            return HTTPStatus.PRECONDITION_FAILED
        if query.get("ifGenerationNotMatch") == generation:
            return HTTPStatus.NOT_MODIFIED if self.command == "GET" else HTTPStatus.PRECONDITION_FAILED
        return None

    def _list(self, start: str, stop: str | None) -> None:
        self.found = None
        objects = sorted(self.storage.objects.get(BUCKET, {}).items())
        items = [about for name, about in objects if start <= name and (stop is None or name < stop)]
        self._send(HTTPStatus.OK, json.dumps({"kind": "storage#objects", "items": items}).encode())

    def _send(self, status: HTTPStatus, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        if self.command == "GET" and self.found:
            self.send_header("x-goog-generation", self.found["generation"])
            self.send_header("ETag", f'"{self.found["generation"]}"')
            self.send_header("Last-Modified", formatdate(usegmt=True))
        super().end_headers()


@contextmanager
def serving() -> Iterator[str]:
    """The URL of a server with an empty bucket."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    logging.getLogger("api").setLevel(logging.CRITICAL)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
