"""NATS's clock, as a process that has read it tells it."""

from __future__ import annotations

import time

import pytest

from mayfly.bus.clock import Clock


@pytest.mark.parametrize("wrong_s", [-30.0, -1.0, 1.0, 30.0])
def test_a_machine_with_a_wrong_clock_goes_by_natss(wrong_s: float) -> None:
    """Whatever the machine's clock says, the time is the server's, as exactly as the round trip allows."""
    clock = Clock()
    asked_at = time.monotonic()
    server = time.time() - wrong_s
    clock.read(server, asked_at=asked_at, answered_at=time.monotonic())

    assert clock.now() == pytest.approx(time.time() - wrong_s, abs=0.1)
    assert clock.machine_is_ahead_s == pytest.approx(wrong_s, abs=0.1)


def test_a_machine_whose_clock_agrees_goes_by_its_own() -> None:
    """A stamp from between question and answer contradicts nothing, however long the answer took."""
    clock = Clock()
    asked_at = time.monotonic() - 1.0
    clock.read(time.time() - 0.9, asked_at=asked_at, answered_at=time.monotonic())

    assert abs(clock.machine_is_ahead_s) < 0.05


def test_a_correction_of_the_machines_clock_is_not_felt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two readings time is counted by the monotonic clock."""
    clock = Clock()
    before = clock.now()
    monkeypatch.setattr("time.time", lambda: before + 3600)

    assert clock.now() - before < 60
