"""Images for tests, built here and pushed to a test's registry."""

from __future__ import annotations

import asyncio
from typing import Any

from examples.oci import Image, push


async def build_and_push(registry: str, name: str, tag: str = "1", **image: Any) -> str:
    """Build an image (see `examples.oci.Image` for what it may have), push it, and return its reference."""
    reference = f"{registry}/{name}:{tag}"
    await asyncio.to_thread(push, Image(**image), reference)
    return reference
