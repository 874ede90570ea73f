"""The pages of a view: Neuroglancer's own client, lazy arrays, and the files of local stores, on one port.

Whoever asks for a file must know its folder's token, a random word that only the page has. Nothing outside of the
folder is given away, by whichever path or link, and no hidden file but those that zarr's metadata consists of.
"""

from __future__ import annotations

import errno
import secrets
import socket
from functools import partial
from pathlib import Path
from typing import Any

from tornado.web import HTTPError, StaticFileHandler

from chunkinfer.errors import MissingExtra, ViewError

METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata")
"""Hidden files that a browser needs."""

ROUTE = r"/stores/(?P<token>[\w-]+)/(?P<path>.*)"


class Stores:
    """The folders that are shown, by token."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}

    def add(self, folder: Path) -> str:
        """Show a folder; gives the path of its URL."""
        token = secrets.token_urlsafe(16)
        self.folders[token] = folder
        return f"/stores/{token}"


class StoreHandler(StaticFileHandler):
    """Files of the shown folders: whole or in ranges, to pages of any origin that know the token."""

    def initialize(self, stores: Stores) -> None:  # type: ignore[override]
        super().initialize(path="")
        self.stores = stores

    def set_default_headers(self) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
        self.set_header("Access-Control-Allow-Headers", "Range, If-None-Match, If-Modified-Since")
        self.set_header("Access-Control-Expose-Headers", "Content-Range, Content-Length, ETag")
        self.set_header("Cache-Control", "no-cache")  # a run may be writing what is shown

    async def get(self, token: str, path: str, include_body: bool = True) -> None:  # type: ignore[override]
        if token not in self.stores.folders or not _shown(path):
            raise HTTPError(404)
        folder = self.stores.folders[token].resolve()
        file = (folder / path).resolve()
        # Older tornados follow every link; newer ones log what they refuse, token and all.
        if not file.is_relative_to(folder) or not file.is_file():
            raise HTTPError(404)
        self.root = str(folder)
        await super().get(path, include_body)

    async def head(self, token: str, path: str) -> None:  # type: ignore[override]
        await self.get(token, path, include_body=False)

    def options(self, token: str, path: str) -> None:
        self.set_status(204)

    def compute_etag(self) -> str | None:
        """By time and size: the default reads the whole file, and remembers it for ever."""
        stat = self._stat()
        return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'


def _shown(path: str) -> bool:
    """Whether a path names a file that may be shown."""
    parts = path.split("/")
    return (
        "\0" not in path
        and "\\" not in path
        and all(part and (not part.startswith(".") or (part in METADATA and part == parts[-1])) for part in parts)
    )


def require_neuroglancer() -> None:
    """Raise `MissingExtra` where there is nothing to view with."""
    try:
        import neuroglancer.server  # noqa: F401
    except ImportError as problem:
        raise MissingExtra.of("Views", "neuroglancer", "view") from problem


def started(host: str, port: int, stores: Stores) -> Any:
    """A server of Neuroglancer's own kind that also serves ``stores``.

    Raises
    ------
    ViewError
        The port is taken, or the address is not this machine's.
    MissingExtra
        neuroglancer is absent.
    """
    require_neuroglancer()
    from neuroglancer.server import Server

    try:
        # Where it cannot listen, tornado would leave its socket open.
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        server = Server(bind_address=host, bind_port=port)
    except OSError as problem:
        raise ViewError(
            f"Nothing can be served at {host}:{port}: {problem}",
            "Another program listens there, or the address is not this machine's.",
            ['be seen by this machine only: host="127.0.0.1"', "give an address of this machine"]
            if problem.errno in (errno.EADDRNOTAVAIL, socket.EAI_NONAME)
            else ["port=0 takes a free port", "end what listens there"],
        ) from problem
    server.app.add_handlers(".*", [(ROUTE, StoreHandler, {"stores": stores})])
    return server


def viewer(server: Any) -> Any:
    """A Neuroglancer at a server of its own."""
    from neuroglancer.viewer_base import ViewerBase

    class Viewer(ViewerBase):  # type: ignore[misc,unused-ignore]
        def defer_callback(self, callback: Any, *args: Any, **kwargs: Any) -> None:
            server.loop.call_soon_threadsafe(partial(callback, *args, **kwargs))

    # The page may not ask this process for the user's credentials.
    made = Viewer(allow_credentials=False)
    server.viewers[made.token] = made
    return made
