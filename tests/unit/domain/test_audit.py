"""What the audit trail can have in it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from mayfly.bus.codec import Codec
from mayfly.domain.audit import MEANINGS, Action, Actor, AuditEntry

pytestmark = pytest.mark.F3

PAGE = Path(__file__).parents[3] / "docs/howto/see-who-did-what.md"


def test_the_page_lists_every_action() -> None:
    """The how-to says of each action what the code does, in the code's order, and of no other."""
    rows = re.findall(r"^\| `([a-z]+\.[a-z-]+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)

    assert set(MEANINGS) == set(Action)
    assert rows == [(str(action), meaning) for action, meaning in MEANINGS.items()], f"write it anew: {PAGE}"


def test_an_action_of_a_later_version_is_read() -> None:
    """In an upgrade older API servers read what newer ones write: an action that they do not know, and more members."""
    entry = AuditEntry(id="i", at=1.0, action="key.make", actor=Actor(by="user"))
    newer = msgspec.to_builtins(entry) | {"colour": "blue"}

    assert Codec(AuditEntry).decode(msgspec.msgpack.encode(newer)) == entry
