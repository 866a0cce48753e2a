"""
A whole installation under load and faults, briefly: on one nats-server and on a cluster of three. `scripts/chaos` runs
as long as one likes, and docs/reference/chaos.md has the report of long runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.faults import Injector
from tests.chaos.installation import faketime
from tests.chaos.load import IN_SHORT
from tests.chaos.report import MINIMUM, report, too_rare
from tests.chaos.rolling import roll, soak
from tests.chaos.run import Outcome, chaos
from tests.support.need import need

pytestmark = [pytest.mark.F9, pytest.mark.F11, pytest.mark.F12, pytest.mark.F13, pytest.mark.A3, pytest.mark.root]

SEED = 6
LONGEST_S = 8.0  # of a freeze or a cut, where there is little time


@pytest.fixture(autouse=True)
def _machine() -> None:
    need(os.geteuid() == 0, "root, for containers and mounts")
    need(faketime(), "libfaketime, for clocks that are off: apt-get install faketime")


def told(outcome: Outcome, minutes: float) -> str:
    """What to read when it went wrong."""
    return report(outcome.history, outcome.violations, missed=outcome.missed, minutes=minutes, seed=SEED)


@pytest.mark.parametrize(("replicas", "seconds"), [(1, 30), (3, 30)])
async def test_promises_hold_under_faults(replicas: int, seconds: int, tmp_path: Path) -> None:
    """
    Whatever is struck, none of the eight invariants is violated; and things were struck, and calls made. A double run
    that is planted while all still runs is rejected, and nothing else.
    """
    outcome = await chaos(
        seconds=seconds, replicas=replicas, seed=SEED, longest_s=LONGEST_S, plan=IN_SHORT, keep=tmp_path
    )

    assert outcome.violations == [], told(outcome, seconds / 60)
    assert sum(fault.struck for fault in outcome.history.faults) >= 4, told(outcome, seconds / 60)
    assert len(outcome.history.calls) >= 100, told(outcome, seconds / 60)
    assert [violation.name for violation in outcome.with_plant] == ["ran-twice"]


@pytest.mark.long
@pytest.mark.parametrize("replicas", [1, 3])
async def test_promises_hold_for_long(replicas: int, tmp_path: Path) -> None:
    """The same for eight minutes, in which each kind of fault strikes at least twice."""
    outcome = await chaos(seconds=480, replicas=replicas, seed=SEED, keep=tmp_path)

    assert outcome.violations == [], told(outcome, 8)
    assert too_rare(outcome.history, Injector.names(replicas), minimum=MINIMUM) == {}, told(outcome, 8)


@pytest.mark.parametrize(
    ("roles", "replicas", "also"),
    [
        (("API server", "worker"), 1, ()),
        pytest.param(("nats-server",), 3, ("503 queue-unavailable",), marks=pytest.mark.long),
    ],
    ids=["API servers and workers", "nats-servers of a cluster"],
)
async def test_a_rolling_restart_fails_no_call(roles: tuple[str, ...], replicas: int, also: tuple[str, ...]) -> None:
    """Each process ends in good order and starts anew under load: callers are told what their calls are for."""
    rolled = await roll(roles, replicas=replicas, seed=SEED, also=also)

    assert rolled.failed == []
    assert rolled.violations == []
    assert set(rolled.statuses.values()) <= {0, 1} if replicas > 1 else set(rolled.statuses.values()) == {0}
    assert len(rolled.calls) >= 50


@pytest.mark.long
async def test_ten_thousand_calls_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """No container, mount, cgroup or file is left; descriptors and memory are what they were after the first tenth."""
    soaked = await soak(10_000, seed=SEED)

    with capsys.disabled():
        print(f"\n{soaked.calls} calls\n{soaked.table()}")
    assert (soaked.failed, soaked.violations) == ([], [])
    for name, warm in soaked.warm.items():
        after = soaked.afterwards[name]
        assert after.descriptors <= warm.descriptors + 4, soaked.table()
        assert after.rss_kib <= warm.rss_kib * 1.1, soaked.table()
        assert after.threads <= warm.threads + 2, soaked.table()
