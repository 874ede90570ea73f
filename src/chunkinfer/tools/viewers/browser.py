"""A picture of a page that Neuroglancer draws, by a Chromium without a window."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from chunkinfer.errors import MissingExtra, ViewError

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
"""Programs that are looked for."""

OPTIONS = (
    "--headless=new",
    "--use-gl=angle",  # WebGL by software: a machine that draws at night has no screen, and often no GPU
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-dev-shm-usage",  # containers give it 64 MB
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",  # the page is on this machine
    "--enable-logging=stderr",
)


def found(browser: str | os.PathLike[str] | None) -> str:
    """The program to start.

    Raises
    ------
    MissingExtra
        There is none.
    """
    names = BROWSERS if browser is None else (os.fspath(browser),)
    for name in names:
        if path := shutil.which(name):
            return path
    raise MissingExtra(
        f"A screenshot needs a Chromium or Chrome; {', '.join(names)} is not there.",
        "Neuroglancer draws in a browser, here in one without a window.",
        ["apt-get install chromium", "name the program, with browser="],
    )


@contextmanager
def running(program: str, url: str, size: tuple[int, int]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A browser that shows a page, with a profile of its own; the process, and what it says."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tempfile.TemporaryFile() as said:
        # As root, Chromium does not start with its sandbox; it shows this machine's pages only.
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        window = f"--window-size={size[0]},{size[1]}"
        command = [program, *OPTIONS, *sandbox, window, f"--user-data-dir={profile}", url]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        try:
            yield process, said
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def drawn(viewer: Any, url: str, size: tuple[int, int], browser: Any, timeout: float) -> bytes:
    """The PNG of what a Neuroglancer shows once everything in sight is loaded.

    Raises
    ------
    MissingExtra
        There is no browser.
    ViewError
        It ended, or the page was not drawn in time.
    """
    program = found(browser)
    before = viewer.config_state.state
    with viewer.config_state.txn() as settings:
        settings.show_ui_controls = False
        settings.show_panel_borders = False
        settings.viewer_size = size
    try:
        with running(program, url, size) as (process, said):
            end = time.monotonic() + timeout
            while (reply := _asked(viewer, process, end)) is not None:
                if (reply.width, reply.height) == tuple(size):  # the first may be taken before the page has its size
                    return bytes(reply.image)
            raise _undrawn(process, said, timeout)
    finally:
        viewer.config_state.set_state(before)


def _asked(viewer: Any, process: subprocess.Popen[bytes], end: float) -> Any:
    """One screenshot; None if the browser ends or the time is over."""
    done, replies = threading.Event(), []

    def reply(answer: Any) -> None:
        replies.append(answer.screenshot)
        done.set()

    viewer.async_screenshot(reply)
    while process.poll() is None and time.monotonic() < end:
        if done.wait(0.1):
            return replies[0]
    return None


def _undrawn(process: subprocess.Popen[bytes], said: IO[bytes], timeout: float) -> ViewError:
    said.seek(0)
    text = said.read().decode(errors="replace").splitlines()
    console = [line.split("] ", 1)[-1] for line in text if re.search(r":CONSOLE[:(]", line)]
    last = "".join(f"\n    {line[:300]}" for line in (console or text)[-5:])
    what = f"ended with code {process.poll()}" if process.poll() is not None else f"did not finish in {timeout:g} s"
    return ViewError(
        f"The browser {Path(str(process.args[0])).name} {what}.{' It said:' + last if last else ''}",  # type: ignore[index]
        "A layer is computed slowly, or cannot be read: browsers read public buckets with CORS only.",
        ['view(..., reader="process") reads buckets here', "wait longer: timeout=600"],
    )
