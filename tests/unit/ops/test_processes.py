"""Several worker processes: what each of them has of what there is once."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from mayfly.ops.listen import ports_after
from mayfly.ops.processes import share_of
from mayfly.settings import SettingsError, WorkerSettings, load

pytestmark = [pytest.mark.A5, pytest.mark.F13]


def shares(**given: Any) -> list[WorkerSettings]:
    """What all of them have."""
    settings = WorkerSettings(**given)
    return [share_of(settings, number + 1) for number in range(settings.worker_processes)]


@pytest.mark.parametrize(
    ("slots", "processes", "each"), [(8, 1, [8]), (8, 2, [4, 4]), (7, 3, [3, 2, 2]), (4, 4, [1, 1, 1, 1])]
)
def test_together_they_have_the_slots(slots: int, processes: int, each: list[int]) -> None:
    """None is lost and none is there twice, however they can be divided."""
    assert [one.slots for one in shares(slots=slots, worker_processes=processes)] == each


def test_what_only_one_can_have_each_has_for_itself() -> None:
    """Directories for state, ports for metrics and addresses for functions differ; the images are the same."""
    some = shares(
        slots=8,
        worker_processes=3,
        state_dir=Path("/run/mayfly"),
        metrics_listen="[::1]:9464",
        egress="on",
        egress_addresses=IPv4Network("10.213.0.0/16"),
    )

    assert [str(one.state_dir) for one in some] == ["/run/mayfly/1", "/run/mayfly/2", "/run/mayfly/3"]
    assert [one.metrics_listen for one in some] == ["[::1]:9465", "[::1]:9466", "[::1]:9467"]
    assert [str(one.egress_addresses) for one in some] == ["10.213.0.0/18", "10.213.64.0/18", "10.213.128.0/18"]
    assert len({one.image_dir for one in some}) == 1


def test_no_metrics_stay_none_and_any_port_any_port() -> None:
    """There is nothing to count on from."""
    assert (ports_after("", 3), ports_after("127.0.0.1:0", 3)) == ("", "127.0.0.1:0")


def test_any_port_is_none_that_others_follow() -> None:
    """Who gathers their metrics must know where each of them has its own."""
    with pytest.raises(SettingsError, match="need a port, and those after it"):
        shares(slots=8, worker_processes=2, metrics_listen="127.0.0.1:0")


def test_addresses_that_are_too_few_are_refused() -> None:
    """A process needs a /20 of its own, as an address rests before it is used again."""
    with pytest.raises(SettingsError, match="cannot be shared by 3 processes"):
        shares(slots=8, worker_processes=3, egress="on", egress_addresses=IPv4Network("10.213.0.0/19"))


@pytest.mark.parametrize("number", [0, 3, -1])
def test_there_are_no_others(number: int) -> None:
    """Who is told to be one that there is none of does not start."""
    with pytest.raises(SettingsError, match="processes 1 to 2"):
        share_of(WorkerSettings(slots=4, worker_processes=2), number)


def test_each_has_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes than slots are refused in a sentence that names the setting."""
    monkeypatch.setenv("MAYFLY_SLOTS", "2")
    monkeypatch.setenv("MAYFLY_WORKER_PROCESSES", "3")
    with pytest.raises(SettingsError, match=r"MAYFLY_WORKER_PROCESSES: .*more than there are slots"):
        load(WorkerSettings)
