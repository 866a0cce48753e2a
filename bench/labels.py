"""What contenders are called on the page, and in which order they stand: from the floor upwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OURS = "mayfly-"
OTHERS_BEFORE = {"unshare": "bare unshare + exec", "crun": "bare crun run"}
OTHERS_AFTER = {"engine": "Docker Engine API", "docker": "docker run"}


def labels(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the label of each contender that was measured, by its name."""
    ours = {f"{OURS}{runtime}": f"Mayfly ({runtime})" for runtime in found["runtimes"]}
    every = {**OTHERS_BEFORE, **ours, **OTHERS_AFTER}
    return {name: label for name, label in every.items() if name in found["contenders"]}
