"""Images that pages name, made of what this machine has: its busybox, its Python."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from dataclasses import replace

from examples.build import PYTHON, python_image
from examples.oci import Image, push

IMAGES = r"(?<![\w/.-])(busybox|python:[\w.-]+)(?![\w/.-])"
"""A pattern of them."""


def _python() -> Image:
    """Python where python.org's image has it. Its version is this machine's."""
    made = python_image(PYTHON)
    files = {path: content for path, content in made.files.items() if path != "/function.py"}
    links = [tarfile.TarInfo(f"usr/local/bin/{name}") for name in ("python", "python3")]
    for link in links:
        link.type, link.linkname = tarfile.SYMTYPE, str(PYTHON)
    return replace(made, files=files, members=links, user="", entrypoint=None, cmd=("python3",))


MADE: dict[str, Callable[[], Image]] = {"busybox": lambda: Image(cmd=("/bin/sh",)), "python": _python}


class Shelf:
    """The images that are in a registry already."""

    def __init__(self, registry: str) -> None:
        """*registry* is host:port."""
        self.registry = registry
        self._there: set[str] = set()

    def bring(self, text: str) -> None:
        """Push the images that a text names, each once."""
        for reference in sorted(set(re.findall(IMAGES, text)) - self._there):
            push(MADE[reference.partition(":")[0]](), f"{self.registry}/{reference}")
            self._there.add(reference)
