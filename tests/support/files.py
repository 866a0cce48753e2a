"""Looks at directories in which others are at work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def everything_below(directory: Path) -> Iterator[Path]:
    """
    Everything below *directory*, without what vanishes while this looks.

    `Path.rglob` raises there (Python 3.11): it opens a directory that somebody has removed since it was listed.
    """
    for parent, directories, files in os.walk(directory):
        for name in (*directories, *files):
            yield Path(parent, name)
