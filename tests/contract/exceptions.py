"""
What a driver cannot keep of the promises, and why: the one list, read by the tests and printed by the documentation.

A test of a promise that is named here must fail with that driver (a strict xfail: should the driver learn to keep it,
the suite says so), or, where trying it would harm the machine, is not run with it (`not_with`).
"""

from __future__ import annotations

import pytest

OCI = ("crun", "runc")
DRIVERS = (*OCI, "docker")

EXCEPTIONS: dict[str, dict[str, str]] = {
    "docker": {
        "user namespace": "Root in a container is root outside, without capabilities: ids are shifted only where the "
        "whole daemon runs with `userns-remap`.",
        "scratch size": "The writable root has no size: only /tmp (where the image brings no files there) and /dev/shm "
        "are limited. A function can fill the disk of the daemon.",
        "the init's own file": "The held init lies in the container's root, where root can delete its own copy: that "
        "changes nothing of this container or of another.",
        "shared cap": "There is no common limit for all functions together: each has its own, and a low CPU weight.",
        "device nodes": "A container has device nodes of its own, which its root owns; the host's are untouched.",
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
    return pytest.mark.xfail(strict=True, reason=f"{driver}, {name}: {EXCEPTIONS[driver][name]}")


def not_with(driver: str, exception: str) -> pytest.MarkDecorator:
    """Run a test with all drivers but this one, which has a named exception that it would harm the machine to try."""
    assert exception in EXCEPTIONS[driver]
    return pytest.mark.parametrize("driver", [name for name in DRIVERS if name != driver], indirect=True)


oci_only = pytest.mark.parametrize("driver", OCI, indirect=True)
"""For tests of what only a driver has that starts processes of its own: no promise of the protocol."""
