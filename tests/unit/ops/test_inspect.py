"""What `mayfly inspect` prints of the audit trail."""

from __future__ import annotations

import datetime
import json

import msgspec
import pytest

from mayfly.bus.inspect import Message
from mayfly.domain.audit import Action, Actor, AuditEntry
from mayfly.domain.ids import SessionId, UserId, UserName
from mayfly.ops.inspect import _line, _trail_line

pytestmark = pytest.mark.F3


def lying(subject: str, content: object) -> Message:
    """A message of the stream."""
    stored_at = datetime.datetime(2026, 12, 1, 9, 14, 2, tzinfo=datetime.UTC)
    return Message(subject, 7, stored_at, 200, content)


def test_an_entry_is_worded() -> None:
    """Each line says when, whose trail, what, what came of it, who, from where and in which login."""
    actor = Actor(
        by="user",
        user_id=UserId("u1"),
        user_name=UserName("ann"),
        session_id=SessionId("s1"),
        address="203.0.113.9",
        request_id="r1",
    )
    done = AuditEntry(id="i", at=1796116442.0, action=Action.FUNCTION_REPLACE, subject="upper", actor=actor)
    refused = AuditEntry(
        id="j",
        at=1796116442.0,
        action=Action.SESSION_BEGIN,
        actor=Actor(by="nobody", address="203.0.113.9"),
        outcome="refused",
        code="not-authenticated",
        times=3,
    )

    lines = [
        _trail_line(lying("audit.u1.done", msgspec.to_builtins(done)), as_json=False),
        _trail_line(lying("audit.nobody.tried", msgspec.to_builtins(refused)), as_json=False),
    ]

    assert lines == [
        "2026-12-01 09:14:02Z, user u1 (ann), function.replace upper, done, by user from 203.0.113.9, "
        "login s1, request r1",
        "2026-12-01 09:14:02Z, user nobody, session.begin, refused (not-authenticated) 3 times, by nobody "
        "from 203.0.113.9",
    ]


@pytest.mark.parametrize("content", ["(not readable)", None, {"v": 1}, 7])
def test_what_is_no_entry_is_shown_as_it_is(content: object) -> None:
    """A message that cannot be read as an entry does not end the list."""
    message = lying("audit.x", content)

    assert _trail_line(message, as_json=False) == _line(message, as_json=False)
    assert json.dumps(content) in _line(message, as_json=False)
