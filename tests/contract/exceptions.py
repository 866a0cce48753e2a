"""
What a driver cannot keep of the promises, and why: the one list, read by the tests and printed by the documentation.

A test of a promise that is named here must fail with that driver (a strict xfail: should the driver learn to keep it,
the suite says so), or, where trying it would harm the machine, is not run with it (`not_with`).
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from mayfly.domain.sandbox import LOST_WITH_DOCKER

OCI = ("crun", "runc")
DRIVERS = (*OCI, "docker")


class Promise(NamedTuple):
    """What crun and runc keep, and what there is instead."""

    kept: str
    instead: str


EXCEPTIONS: dict[str, dict[str, Promise]] = {
    "docker": {
        "user namespace": Promise(
            "Root in a container is nobody else on the machine, with 65,536 ids that no other call has meanwhile.",
            LOST_WITH_DOCKER["user namespace"],
        ),
        "scratch size": Promise(
            "The writable root has a size; full, it is ENOSPC for this function alone.",
            LOST_WITH_DOCKER["scratch size"],
        ),
        "the init's own file": Promise(
            "The held init is a read-only mount.",
            "The held init lies in the container's root, where root can delete its own copy: that changes nothing of "
            "this container or of another.",
        ),
        "pending signals": Promise(
            "A function has 1,024 queued signals and timers of its own.",
            LOST_WITH_DOCKER["pending signals"],
        ),
        "shared cap": Promise(
            "All functions together are capped a quarter of a core below the machine.",
            LOST_WITH_DOCKER["shared cap"],
        ),
        "fair shares": Promise(
            "Users whose calls compute have the same share of the processor each, however many calls they have.",
            LOST_WITH_DOCKER["fair shares"],
        ),
        "device nodes": Promise(
            "Nobody in a container owns its device nodes.",
            "A container has device nodes of its own, which its root owns; the host's are untouched.",
        ),
        "a crash around it": Promise(
            "Whatever dies, the worker or what it started, the function dies at once.",
            "When the worker dies, its functions do at once; when the daemon crashes, they go on, unseen, to their "
            "time limit and 5 s at most.",
        ),
    }
}

CANNOT: dict[str, dict[str, str]] = {
    "docker": {
        "test_ids_are_not_the_hosts": "user namespace",
        "test_the_init_cannot_be_replaced": "the init's own file",
        "test_a_function_does_not_own_the_devices": "device nodes",
    }
}
"""By driver and test: the exception that lets it fail."""


def cannot(driver: str, test: str) -> pytest.MarkDecorator | None:
    """The mark for a test that this driver must fail; None where it has to pass."""
    name = CANNOT.get(driver, {}).get(test)
    if name is None:
        return None
    return pytest.mark.xfail(strict=True, reason=f"{driver}, {name}: {EXCEPTIONS[driver][name].instead}")


def not_with(driver: str, exception: str) -> pytest.MarkDecorator:
    """Run a test with all drivers but this one, which has a named exception that it would harm the machine to try."""
    assert exception in EXCEPTIONS[driver]
    return pytest.mark.parametrize("driver", [name for name in DRIVERS if name != driver], indirect=True)


oci_only = pytest.mark.parametrize("driver", OCI, indirect=True)
"""For tests of what only a driver has that starts processes of its own: no promise of the protocol."""


def table(driver: str) -> str:
    """What a driver cannot keep, as the documentation shows it; this module, run with its name, prints it."""
    rows = [(name, promise.kept, promise.instead) for name, promise in EXCEPTIONS[driver].items()]
    head = ("", " and ".join(OCI), driver)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * 3, *rows)) + "\n"


if __name__ == "__main__":
    print(table(sys.argv[1]), end="")
