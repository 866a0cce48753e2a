"""Images that pages name, made of what this machine has: its busybox, its Python, its Node."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

from examples.build import node, python
from examples.oci import Image, push
from tests.support.need import need

IMAGES = r"(?<![\w/.-])((?:s390x/)?busybox(?::[\w.-]+)?|(?:python|node):\d[\w.-]*)(?![\w/.-])"
"""A pattern of them."""

MADE: dict[str, Callable[[], Image]] = {
    "busybox": lambda: Image(cmd=("/bin/sh",)),
    "s390x/busybox": lambda: Image(cmd=("/bin/sh",), architecture="s390x"),
    "python": python,
    "node": node,
}
"""What stands in for them. The version of Python and of Node is this machine's, whatever the tag says."""


class Shelf:
    """The images that are in a registry already."""

    def __init__(self, registry: str) -> None:
        """*registry* is host:port."""
        self.registry = registry
        self._there: set[str] = set()

    def bring(self, text: str) -> None:
        """Push the images that a text names, each once."""
        for reference in sorted(set(re.findall(IMAGES, text)) - self._there):
            name = reference.partition(":")[0]
            need(name != "node" or shutil.which("node"), "node")
            push(MADE[name](), f"{self.registry}/{reference}")
            self._there.add(reference)
