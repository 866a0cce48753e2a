"""The examples of docs/reference/api.md, run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pages import record
from pages.played import recorded
from tests.support.up import running_up


@pytest.mark.F1
def test_every_example_is_answered_as_it_says(registry: str, image: str, tmp_path: Path) -> None:
    """
    Each command of the page, run by bash and curl on an installation that nobody has used, is answered with the status,
    the headers and the body that stand there, but for ids, times and the like.
    """
    with running_up(registry, slots=record.SLOTS) as up:
        played = record.on(up, image, tmp_path)

    expected = recorded()
    assert len(played) == len(expected) > 40
    for now, then in zip(played, expected, strict=True):
        assert now.compared == then.compared, f"{now.command}: if it is meant, run scripts/docs --record"
