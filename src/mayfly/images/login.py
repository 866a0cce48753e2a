"""
A user's own credentials, as skopeo reads them: a file in memory, which only the children it is passed to can open.

It never lies on a disk and is on no command line; it names one registry, so nobody else is sent it. Rows: F4.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mayfly.domain.registry import OpenedCredentials


@contextmanager
def login_file(registry: str, credentials: OpenedCredentials) -> Iterator[int]:
    """Hold credentials for *registry*, as a reference writes it, in the format of docker's config.json."""
    pair = base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
    content = json.dumps({"auths": {registry: {"auth": pair}}}).encode()
    descriptor = os.memfd_create("registry-login", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield descriptor
    finally:
        os.close(descriptor)


def path_of(descriptor: int) -> Path:
    """Where a child that was passed the descriptor opens it; each opening reads from the beginning."""
    return Path(f"/proc/self/fd/{descriptor}")
