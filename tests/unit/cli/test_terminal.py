"""What runs a command: errors become sentences and statuses, defects keep their traceback."""

from __future__ import annotations

import json

import pytest

from mayfly.cli.exits import Refused
from mayfly.cli.terminal import guarded
from mayfly.client import NotLoggedIn


def failing_with(error: BaseException) -> int:
    """The status of a command that raises *error*."""

    def work() -> None:
        raise error

    return guarded(work, as_json=False)


def test_a_defect_is_shown_whole_and_is_not_the_functions(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception that nobody foresaw keeps its traceback, and its status is not that of a failed function."""
    assert failing_with(KeyError("x")) == 6
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_has_its_own_status() -> None:
    """130, as shells have it."""
    assert failing_with(KeyboardInterrupt()) == 130


@pytest.mark.parametrize(
    ("error", "status"), [(Refused("No."), 2), (Refused("No.", status=5), 5), (NotLoggedIn("No."), 4)]
)
def test_an_error_is_a_sentence(capsysbinary: pytest.CaptureFixture[bytes], error: Exception, status: int) -> None:
    """On stderr, after the program's name; nothing on stdout."""
    assert failing_with(error) == status

    said = capsysbinary.readouterr()
    assert said.err.startswith(b"mayfly: No.\n")
    assert said.out == b""


def test_an_error_is_one_object_in_json(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """With --json also what the command itself refuses is JSON, with the members that every error has."""

    def work() -> None:
        raise Refused("No.")

    guarded(work, as_json=True)

    assert json.loads(capsysbinary.readouterr().err) == {
        "code": "refused",
        "detail": "No.",
        "fault": "caller",
        "ran": "no",
    }
