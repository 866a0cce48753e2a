"""The site, built once, from the files and from a web server; and a browser."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.browser import Browser, browser

ROOT = Path(__file__).resolve().parent.parent.parent.parent


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    out = tmp_path_factory.mktemp("site")
    command = ["scripts/docs-site", "--out", str(out), "--project", Path(os.path.relpath(ROOT, out)).as_posix()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[str]:
    """The address of a plain web server that serves the site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(site))) as serving:
        thread = threading.Thread(target=serving.serve_forever, name="site")
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def one_browser() -> Iterator[Browser]:
    """A browser for all tests."""
    with browser() as one:
        yield one


@pytest.fixture
def reader(one_browser: Browser) -> Browser:
    """A browser as wide as a desktop's, in which nothing has been looked at."""
    one_browser.look()
    one_browser.open("about:blank")
    one_browser.complaints()
    one_browser.requests()
    return one_browser
