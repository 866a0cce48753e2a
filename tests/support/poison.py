"""
Messages that are not what they ought to be: random bytes, genuine ones cut, with bytes changed or of another version,
MessagePack of any shape, structs with a wrong member, nesting, lengths that are not there.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mayfly.bus.retention import Books, Chunk
from mayfly.domain.activation import Activation, Response, State, Work
from mayfly.domain.attempts import KnownAddress, Tally
from mayfly.domain.audit import Actor, AuditEntry
from mayfly.domain.function import Function
from mayfly.domain.idempotency import IdempotencyEntry
from mayfly.domain.ids import Digest, FunctionName, SessionId, UserId, UserName, WorkerId, new_id, new_ulid
from mayfly.domain.image import ImageAnswer, PrepareImage
from mayfly.domain.invitation import Claim, Invitation
from mayfly.domain.place import Place
from mayfly.domain.registry import RegistryCredentials
from mayfly.domain.sealing import Sealed
from mayfly.domain.secret import Secret
from mayfly.domain.user import Session, User
from mayfly.domain.worker import WorkerBeat

OWNER, INSTANCE, ULID, FUNCTION_ID = UserId(new_id()), new_id(), new_ulid(), new_id()
DIGEST = Digest("sha256:" + "0" * 64)

RECORD = Activation(
    state=State.QUEUED,
    nonce=new_id(),
    user_id=OWNER,
    instance=INSTANCE,
    ulid=ULID,
    function=FunctionName("f"),
    function_id=FUNCTION_ID,
    image="busybox",
    digest=DIGEST,
    parameter_bytes=1,
    parameter_sha256="",
    created_at=1.0,
    deadline_at=2.0,
    worker=WorkerId(new_id()),
)
FUNCTION = Function(
    id=FUNCTION_ID,
    user_id=OWNER,
    name=FunctionName("f"),
    image="busybox",
    command=("cat",),
    env=(("A", "b"),),
    created_at=1.0,
    updated_at=1.0,
)
GENUINE: tuple[Any, ...] = (
    RECORD,
    FUNCTION,
    Work(
        user_id=OWNER,
        instance=INSTANCE,
        ulid=ULID,
        revision=1,
        record=RECORD,
        function=FUNCTION,
        parameter=b"x",
        budget_s=30.0,
        traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
    ),
    Response(attempt=new_id(), result=b"result", stderr=b"said"),
    User(id=OWNER, name=UserName("somebody"), password_hash="$argon2id$", created_at=1.0),
    Session(
        id=SessionId(new_id()),
        user_id=OWNER,
        user_name=UserName("somebody"),
        refresh_digest=b"digest",
        created_at=1.0,
        expires_at=2.0,
        made_by=SessionId(new_id()),
    ),
    WorkerBeat(
        id=WorkerId(new_id()),
        host="h",
        version="1",
        runtime="oci",
        slots=4,
        running=1,
        images=1,
        started_at=1.0,
        beat_at=1.0,
    ),
    IdempotencyEntry(user_id=OWNER, instance=INSTANCE, ulid=ULID, request_sha256="0" * 64),
    PrepareImage(reference="busybox", owner=OWNER),
    ImageAnswer(digest=DIGEST),
    Place(holder=RECORD.key),
    Books(chunks=[Chunk(7, 100)]),
    AuditEntry(
        id=ULID,
        at=1.0,
        action="role.set",
        subject="somebody",
        actor=Actor(
            by="user",
            user_id=OWNER,
            user_name=UserName("somebody"),
            session_id=SessionId(new_id()),
            address="2001:db8::1",
            request_id="r-1",
        ),
        outcome="refused",
        code="not-allowed",
        previous=3,
    ),
    Tally(failures=2, last_at=1.0, nonce=new_id()),
    KnownAddress(since=1.0),
    Invitation(
        id=ULID,
        secret_digest=b"digest",
        note="for ann",
        created_by="(host)",
        created_at=1.0,
        expires_at=2.0,
        claim=Claim(user_id=OWNER, user_name=UserName("somebody"), revision=1, at=1.5),
    ),
    Secret(sealed=Sealed(kid=ULID, box=b"sealed")),
    RegistryCredentials(
        host="registry.example:5000", username="somebody", updated_at=1.0, sealed=Sealed(kid=ULID, box=b"sealed")
    ),
)
"""One of each struct that is decoded from the bus; a test sees that none is missing."""
WHOLE = st.integers(-(2**63), 2**64 - 1)  # all that MessagePack has
ODD = st.one_of(
    st.none(),
    st.booleans(),
    WHOLE,
    st.floats(),
    st.sampled_from(["", "\0", "a b", "a.b", "*", ">", "x\r\nPUB act 0\r\n\r\n", "../../etc", "é", "a" * 70]),
    st.text(max_size=40),
    st.binary(max_size=40),
    st.lists(WHOLE, max_size=3),
    st.dictionaries(st.text(max_size=5), WHOLE, max_size=3),
)
SHAPES = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=30,
)


def wrong(genuine: Any) -> st.SearchStrategy[bytes]:
    """Messages that are nearly this one, or nothing like it."""
    data = msgspec.msgpack.encode(genuine)
    members = msgspec.to_builtins(genuine, builtin_types=(bytes,))

    def with_members(changes: dict[str, Any]) -> bytes:
        return msgspec.msgpack.encode(members | changes)

    def with_bytes(changes: list[tuple[int, int]]) -> bytes:
        changed = bytearray(data)
        for at, byte in changes:
            changed[at % len(changed)] = byte
        return bytes(changed)

    names = st.sampled_from(sorted(members) or ["v"])
    return st.one_of(
        st.binary(max_size=300),
        st.integers(0, len(data) - 1).map(lambda size: data[:size]),
        st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), min_size=1, max_size=8).map(with_bytes),
        st.dictionaries(names, SHAPES, min_size=1, max_size=3).map(with_members),
        WHOLE.map(lambda version: with_members({"v": version})),
        SHAPES.map(msgspec.msgpack.encode),
        st.sampled_from([b"\x91", b"\x81\xa1a"]).flatmap(
            lambda opening: st.integers(1, 5000).map(lambda depth: opening * depth)
        ),
        st.sampled_from(
            [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
        ),
        st.binary(max_size=20).map(lambda more: data + more),
    )


def some_wrong(genuine: Any, count: int) -> list[bytes]:
    """That many of them, each run the same."""
    found: list[bytes] = []

    @seed(7)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(wrong(genuine))
    def collect(data: bytes) -> None:
        found.append(data)

    collect()
    return found
