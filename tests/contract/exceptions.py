"""
What a driver cannot keep of the promises, and why: the one list, read by the tests and printed by the documentation.

A test of a promise that is named here must fail with that driver (a strict xfail: should the driver learn to keep it,
the suite says so), or, where trying it would harm the machine, is not run with it (`not_with`).
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from mayfly.domain.sandbox import LOST_WITH_CONFINED, LOST_WITH_DOCKER

OCI = ("crun", "runc")
LOCAL = ("native", *OCI)
DRIVERS = (*LOCAL, "docker", "confined")


class Promise(NamedTuple):
    """What the drivers keep that start containers themselves, and what there is instead."""

    kept: str
    instead: str


EXCEPTIONS: dict[str, dict[str, Promise]] = {
    "native": {
        "home": Promise(
            "Where the image does not set HOME, the runtime looks it up in the image's accounts.",
            "HOME is looked up when the image is unpacked, whatever the driver, so no container is made without it.",
        ),
        "the init's own file": Promise(
            "The held init is a read-only mount.",
            "Process 1 was started outside: nothing of it is a file in the container.",
        ),
    },
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
    },
    "confined": {
        "namespaces": Promise(
            "A call has namespaces of its own: process ids, host name, users, network, mounts, /proc and /sys.",
            LOST_WITH_CONFINED["namespaces"],
        ),
        "writable root": Promise(
            "All of the root can be written to, and what is written is gone with the call.",
            LOST_WITH_CONFINED["writable root"],
        ),
        "user of the image": Promise(
            "A call runs as the image's user, with its groups and home.",
            LOST_WITH_CONFINED["user of the image"],
        ),
        "memory": Promise(
            "The limit holds for all processes together; beyond it the call ends as out of memory.",
            LOST_WITH_CONFINED["memory"],
        ),
        "cpu": Promise(
            "A call has its quota, a user his share, and all together leave some for the worker.",
            LOST_WITH_CONFINED["cpu"],
        ),
        "disk": Promise(
            "What a call writes has a size and a number of files.",
            LOST_WITH_CONFINED["disk"],
        ),
        "network": Promise(
            "A call has a loopback of its own, and egress where the operator allows it.",
            LOST_WITH_CONFINED["network"],
        ),
        "shared image": Promise(
            "Calls of one image know nothing of each other.",
            LOST_WITH_CONFINED["shared image"],
        ),
        "system calls": Promise(
            "Programs have pipes with names and the shared memory of System V and POSIX.",
            LOST_WITH_CONFINED["system calls"],
        ),
        "secrets as files": Promise(
            "Secrets are files in /run/secrets.",
            LOST_WITH_CONFINED["secrets as files"],
        ),
        "open files": Promise(
            "A process may raise its 1,024 open files to 65,536.",
            "It has 1,024.",
        ),
        "device nodes": Promise(
            "Device nodes in an image are removed when it is unpacked, and would be inert.",
            "They are removed when it is unpacked.",
        ),
    },
}

CANNOT: dict[str, dict[str, str]] = {
    "native": {
        "test_home_comes_from_the_images_accounts": "home",
        "test_the_init_cannot_be_replaced": "the init's own file",
    },
    "docker": {
        "test_ids_are_not_the_hosts": "user namespace",
        "test_the_init_cannot_be_replaced": "the init's own file",
        "test_a_function_does_not_own_the_devices": "device nodes",
    },
    "confined": {
        "test_the_environment_is_the_images_and_the_calls_and_nothing_else": "writable root",
        "test_home_comes_from_the_images_accounts": "writable root",
        "test_the_images_user_groups_and_directory_hold": "user of the image",
        "test_a_missing_working_directory_is_made": "writable root",
        "test_standard_files_can_be_opened_by_name": "namespaces",
        "test_memory_limit_kills": "memory",
        "test_memory_limit_counts_children_too": "memory",
        "test_every_call_has_a_fresh_root": "writable root",
        "test_a_function_sees_only_its_own_processes": "namespaces",
        "test_ids_are_not_the_hosts": "namespaces",
        "test_no_capabilities_no_new_privileges_and_a_filter": "namespaces",  # no /proc: `test_confined` asks outside
        "test_there_is_no_network_but_loopback": "network",
        "test_the_host_name_is_the_containers_id": "namespaces",
        "test_only_the_three_standard_files_are_open": "namespaces",  # no /proc: `test_confined` asks outside
        "test_limits_are_those_of_the_spec": "memory",
        "test_cpu_limit_holds": "cpu",
        "test_all_functions_together_leave_something_to_the_system": "cpu",
        "test_a_user_has_one_share_however_many_calls": "cpu",
        "test_a_users_group_goes_with_his_last_call": "cpu",
        "test_a_full_disk_is_no_space_and_not_a_kill": "disk",
        "test_a_full_root_is_no_space_and_not_a_kill": "disk",
        "test_files_without_end_meet_a_limit": "disk",
        "test_shared_memory_works": "writable root",
        "test_device_nodes_of_an_image_are_dead": "device nodes",
        "test_the_root_knows_no_devices_and_no_set_user_id": "device nodes",
        "test_a_function_does_not_own_the_devices": "namespaces",  # which would show root as nobody
        "test_the_standard_files_are_pipes_never_the_hosts_devices": "namespaces",  # no /proc: `test_confined`
        "test_the_init_cannot_be_replaced": "namespaces",  # the launcher is not inside at all
        "test_calls_do_not_see_each_other": "network",  # it speaks by loopback: `test_confined` has its own
    },
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


local_only = pytest.mark.parametrize("driver", LOCAL, indirect=True)
"""For tests of what only a driver has that starts containers itself: no promise of the protocol."""

native_only = pytest.mark.parametrize("driver", ["native"], indirect=True)
"""For tests of our own launcher."""

oci_only = pytest.mark.parametrize("driver", OCI, indirect=True)
"""For tests of what only a driver has that leaves it to a container runtime."""


def table(driver: str) -> str:
    """What a driver cannot keep, as the documentation shows it; this module, run with its name, prints it."""
    rows = [(name, promise.kept, promise.instead) for name, promise in EXCEPTIONS[driver].items()]
    head = ("", "native, crun and runc", driver)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * 3, *rows)) + "\n"


if __name__ == "__main__":
    print(table(sys.argv[1]), end="")
