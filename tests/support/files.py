"""Looks at directories in which others are at work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def directories_below(directory: Path) -> Iterator[Path]:
    """
    All directories below *directory*, without those that vanish while this looks.

    `Path.rglob` raises there (Python 3.11): it opens a directory that somebody has removed since it was listed.
    """
    for parent, names, _ in os.walk(directory):
        for name in names:
            yield Path(parent, name)
