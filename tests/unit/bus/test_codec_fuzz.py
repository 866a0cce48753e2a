"""
Whatever lies on the bus, a decoder returns a struct or raises `Undecodable`; for JetStream's own answers, an APIError.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from nats.js.errors import APIError

from mayfly.bus.answers import Answer
from mayfly.bus.clock_reading import _Answer as ClockAnswer
from mayfly.bus.codec import VERSION, Codec, Undecodable
from mayfly.bus.health import _StreamAnswer
from mayfly.bus.messages import _Answer as MessageAnswer
from mayfly.bus.store import _InfoAnswer
from mayfly.domain.activation import Activation, Work
from mayfly.domain.attempts import KnownAddress, Tally
from mayfly.domain.audit import AuditEntry
from mayfly.domain.function import Function
from mayfly.domain.ids import new_id
from mayfly.domain.image import PrepareImage
from mayfly.domain.invitation import Invitation
from mayfly.domain.place import Place
from mayfly.domain.registry import RegistryCredentials
from mayfly.domain.worker import WorkerBeat
from tests.support.poison import GENUINE, wrong

EACH, TRIED_AT_LEAST = 270, 5000
SOURCE = Path(__file__).parents[3] / "src/mayfly"
DECODERS = {"Codec": 0, "Store": 2}  # which of their arguments is the struct
ANSWERS = (MessageAnswer, _InfoAnswer, _StreamAnswer, ClockAnswer)
tried: Counter[str] = Counter()


def structs_on_the_bus() -> Iterator[str]:
    """Name the struct of each `Codec` and `Store` in the source."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DECODERS:
                struct = node.args[DECODERS[node.func.id]]
                assert isinstance(struct, ast.Name), f"{file}:{node.lineno}: its struct is not named there"
                yield struct.id


def test_no_struct_is_left_out() -> None:
    """Whatever is decoded from the bus is among what is tried here, and nothing else is."""
    in_store = "struct"  # `Store`'s own argument, which its callers name

    assert set(structs_on_the_bus()) - {in_store} == {type(genuine).__name__ for genuine in GENUINE}


def test_a_message_is_read_or_said_to_be_undecodable() -> None:
    """
    Of at least 5,000 messages: nothing else is raised; what is read is of a version that is known here, and can be
    written again. An answer of JetStream's that is none is an error of JetStream's, so that whoever asked asks again.
    """
    for genuine in GENUINE:
        try_messages(genuine)
    for struct in ANSWERS:
        try_answers(struct)
    print(f"{tried.total()} messages: {dict(tried)}")

    assert tried.total() >= TRIED_AT_LEAST


def try_messages(genuine: Any) -> None:
    """Decode what is nearly that struct, or nothing like it."""
    codec: Codec[Any] = Codec(type(genuine))
    assert codec.decode(codec.encode(genuine)) == genuine

    @seed(7)
    @settings(max_examples=EACH, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(wrong(genuine))
    def read(data: bytes) -> None:
        tried[type(genuine).__name__] += 1
        try:
            value = codec.decode(data)
        except Undecodable:
            return
        assert value.v in (VERSION, VERSION - 1)
        assert codec.decode(codec.encode(value)) == value

    read()


def try_answers(struct: type[Any]) -> None:
    """Decode what is nearly such an answer, or nothing like it."""
    answer: Answer[Any] = Answer(struct)
    genuine = b'{"message": {"subject": "a", "seq": 1, "time": "2026-11-29T12:00:00Z"}, "error": {}, "total": 1}'

    @seed(7)
    @settings(max_examples=EACH // 2, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(wrong(struct()) | st.integers(0, len(genuine)).map(lambda size: genuine[:size]))
    def read(data: bytes) -> None:
        tried[f"an answer of {struct.__module__}"] += 1
        try:
            answer.decode(data)
        except APIError:
            return

    read()


def poisons() -> Iterator[tuple[type[Any], dict[str, Any], dict[str, Any]]]:
    """Each struct that is right but for something that would do harm."""
    record, function, work = (msgspec.to_builtins(each, builtin_types=(bytes,)) for each in GENUINE[:3])
    beat, place, prepare = (
        msgspec.to_builtins(next(one for one in GENUINE if isinstance(one, kind)), builtin_types=(bytes,))
        for kind in (WorkerBeat, Place, PrepareImage)
    )
    entry, tally, known, invitation, credentials = (
        msgspec.to_builtins(next(one for one in GENUINE if isinstance(one, kind)), builtin_types=(bytes,))
        for kind in (AuditEntry, Tally, KnownAddress, Invitation, RegistryCredentials)
    )
    harms: tuple[tuple[str, Any], ...] = (
        ("worker", "x.owns 0\r\n\r\nPUB act.x 0\r\n"),
        ("worker", "*"),
        ("user_id", "a.b"),
        ("instance", ">"),
        ("ulid", "a b"),
        ("digest", "sha256:../../etc"),
        ("result_type", "text/html\r\nSet-Cookie: a=b"),
        ("created_at", float("nan")),
        ("deadline_at", float("inf")),
        ("ended_at", 1e300),
        ("started_at", -1.0),
    )
    for name, value in harms:
        yield Activation, record, {name: value}
    harms = (
        ("command", ["a\0b"]),
        ("env", [["A\0", "b"]]),
        ("limits", {"timeout_s": float("nan")}),
        ("limits", {"memory_mib": -1}),
        ("digest", "latest"),
        ("name", "../f"),
    )
    for name, value in harms:
        yield Function, function, {name: value}
    argument = {"parameter": b"a\0b", "function": function | {"parameter": "argument"}}
    for changes in (
        {"budget_s": float("nan")},
        {"budget_s": float("inf")},
        {"revision": 0},
        {"user_id": new_id()},
        {"record": record | {"user_id": new_id()}},
        {"record": record | {"state": "running"}},
        {"function": function | {"user_id": new_id()}},
        {"function": function | {"id": new_id()}},
        {"traceparent": "a\0b"},
        argument,
        argument | {"parameter": b"\xff"},
    ):
        yield Work, work, changes
    yield WorkerBeat, beat, {"started_at": float("nan")}
    yield WorkerBeat, beat, {"slots": -5}
    yield Place, place, {"holder": "*.*.*"}
    yield PrepareImage, prepare, {"owner": "a b"}
    yield PrepareImage, prepare, {"digest": "sha256:../../x"}
    yield AuditEntry, entry, {"at": float("nan")}
    yield AuditEntry, entry, {"previous": -1}
    yield AuditEntry, entry, {"actor": entry["actor"] | {"user_id": ">"}}
    yield AuditEntry, entry, {"actor": entry["actor"] | {"request_id": "x\r\ny"}}
    yield Tally, tally, {"failures": -1}
    yield Tally, tally, {"last_at": float("inf")}
    yield KnownAddress, known, {"since": float("nan")}
    yield Invitation, invitation, {"expires_at": float("nan")}
    yield Invitation, invitation, {"claim": invitation["claim"] | {"user_name": "a.*"}}
    yield Invitation, invitation, {"claim": invitation["claim"] | {"revision": -1}}
    yield RegistryCredentials, credentials, {"host": "a\r\nb"}
    yield RegistryCredentials, credentials, {"username": "a\0b"}


@pytest.mark.parametrize(("struct", "genuine", "changes"), list(poisons()))
def test_what_would_do_harm_is_undecodable(struct: type[Any], genuine: dict[str, Any], changes: dict[str, Any]) -> None:
    """A wildcard, a line break, a path, a NUL, a number that is none, parts that do not belong together."""
    codec: Codec[Any] = Codec(struct)
    codec.decode(msgspec.msgpack.encode(genuine))

    with pytest.raises(Undecodable):
        codec.decode(msgspec.msgpack.encode(genuine | changes))
