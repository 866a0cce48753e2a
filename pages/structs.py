"""A stored struct as a table: each field with its type, its default and what the source says beside it."""

from __future__ import annotations

import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect as types

from pages.page import prose, table

TOKEN = r"^[a-z0-9-]{1,64}\Z"  # noqa: S105 - of a subject
NAMED = {
    TOKEN: "token",
    r"^[a-z0-9-]{1,64}(\.[a-z0-9-]{1,64}){0,2}\Z": "up to three tokens",
    r"^sha256:[0-9a-f]{64}\Z": "digest",
    r"^[ -~]{0,512}\Z": "line of ASCII",
    r"^[^\0]*\Z": "text without NUL",
    r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z": "name of a variable",
}
"""What the patterns of `mayfly.domain.stored` are called on the page, which explains the words."""

BOUNDS = {(0, 2**53): "count", (0, 2.5e11): "moment", (-1e9, 1e9): "seconds", (1, 1e9): "seconds, at least 1"}
"""What its ranges are called."""


COMMON = {
    "v": "The version of this shape.",
    "user_id": "Whose it is.",
    "instance": "The API server that admitted it.",
    "ulid": "The rest of the activation's id.",
    "created_at": "When it was made.",
    "updated_at": "When it was last changed.",
    "expires_at": "When it ends.",
    "image": "The image reference, as the user wrote it.",
    "sealed": "The value, which only a worker can read.",
}
"""What needs no words in the code, and has some on the page."""

OWN: dict[str, dict[str, str]] = {
    "Activation": {
        "state": "Where it stands.",
        "user_id": "Who called.",
        "function": "The function's name.",
        "function_id": "Its id, which is new with each registration.",
        "digest": "What the image reference meant.",
        "result_type": "The media type of the result.",
        "parameter_bytes": "How long the parameter is.",
        "parameter_sha256": "Its SHA-256, in hex.",
        "deadline_at": "When its time is over.",
        "ran": "Whether its container ran.",
        "worker": "Which worker has or had it.",
        "detail": "The error in words.",
        "exit_code": "Of the command.",
        "result_bytes": "How long the result is.",
        "stderr_bytes": "How much was logged.",
        "cpu_us": "Processor time, in microseconds.",
        "memory_peak_bytes": "The most memory that was used.",
        "steps": "How long each step took.",
    },
    "Work": {
        "record": "The record as it was queued.",
        "function": "The function as it was then.",
        "parameter": "The parameter, byte for byte.",
        "budget_s": "What was left of its time when the message was published.",
        "traceparent": "Of the call, for MAYFLY_TRACEPARENT.",
    },
    "Response": {
        "attempt": "Which attempt made it: valid if the final record names the same.",
        "result": "stdout, byte for byte; null after a failure.",
        "stderr": "What is kept of stderr.",
        "stderr_truncated": "Whether its beginning was cut off.",
    },
    "Function": {
        "parameter": "How the container gets the parameter.",
        "env": "Variables: name and value.",
        "limits": "What one activation may use.",
        "result_type": "The media type of results.",
        "network": "What its containers can reach.",
        "id": "New with each registration.",
        "user_id": "Whose it is.",
        "name": "Its name, among its user's.",
        "digest": "What the image reference meant; null while the state is pending.",
    },
    "Limits": {
        "memory_mib": "Memory in MiB, files included; there is no swap.",
        "cpus": "Processor time per time.",
        "max_concurrency": "Activations in flight, waiting and running alike; null for no limit of its own.",
        "pids": "Processes and threads at once.",
        "timeout_s": "From the arrival of a call to its end.",
    },
    "SecretRef": {
        "key": "The secret's name.",
        "delivery": "How the container gets it.",
        "size_bytes": "How long the value is.",
        "updated_at": "When it was set.",
    },
    "User": {
        "id": "Random, never used again.",
        "name": "The user name.",
        "password_hash": "argon2id, with its salt and costs.",
        "role": "Whether it is an operator's account.",
    },
    "Session": {
        "id": "In every access token of it.",
        "user_name": "Its user's name.",
        "role": "The user's, when it began.",
        "suspended": "The user's, likewise.",
        "refresh_digest": "SHA-256 of the one refresh token that is good now; empty for a key.",
        "kind": "A login, or a key for a machine.",
        "key_name": "Of a key: its name.",
    },
    "IdempotencyEntry": {},
    "WorkerBeat": {
        "id": "New with each start.",
        "host": "The machine's name.",
        "version": "Of Mayfly.",
        "runtime": "What runs its containers.",
        "slots": "Activations that it may run at once.",
        "running": "Activations that it runs.",
        "images": "Unpacked images that it has.",
        "started_at": "When it started.",
        "beat_at": "When it said this.",
    },
    "Tally": {
        "failures": "How many have failed.",
        "last_at": "When the last of them was.",
    },
    "KnownAddress": {"since": "When the login was."},
    "Invitation": {
        "id": "The first half of the code, which is no secret.",
        "secret_digest": "SHA-256 of the code's second half.",
        "created_by": "An operator's name; `(host)` for one made by `mayfly users invite`.",
        "claim": "The registration that has it, until it has finished.",
    },
    "Claim": {
        "user_id": "The id that the account gets.",
        "user_name": "The name that it gets.",
        "revision": "That at which the name was found free.",
        "at": "When.",
    },
    "RegistryCredentials": {"username": "The user's name there."},
    "Sealed": {"kid": "Which sealing key it was encrypted to.", "box": "The encrypted value."},
    "AuditEntry": {
        "action": "What was asked for, by this version of Mayfly or another.",
        "actor": "Who acted, and from where.",
        "outcome": "What came of it.",
    },
    "Actor": {
        "by": "The user himself, an operator, or somebody who was not let in.",
        "user_name": "The user's name then.",
        "session_id": "With which login or key.",
        "address": "From which IP address.",
        "request_id": "The one that the answer had.",
    },
    "PrepareImage": {
        "reference": "The image reference.",
        "owner": "For which user: his credentials are used.",
    },
    "ImageAnswer": {
        "digest": "What the reference means; null when it cannot be had.",
        "process": "What the image says that it runs.",
        "code": "Of the error, when it cannot be had.",
        "problem": "The registry's words, then.",
    },
    "ProcessConfig": {
        "entrypoint": "The image's ENTRYPOINT.",
        "cmd": "The image's CMD.",
        "env": "Its variables.",
        "cwd": "Its working directory.",
        "uid": "Its user.",
        "gid": "Its group.",
        "groups": "Further groups.",
    },
    "Books": {"chunks": "Neighbouring responses, counted together."},
    "Chunk": {"last_seq": "The sequence of the last of them.", "size": "The bytes of all."},
}
"""Of one struct's fields, where the code says nothing beside them. With neither the page cannot be made."""


def described(struct: type[msgspec.Struct]) -> str:
    """
    Write a struct's purpose and its fields.

    Raises: KeyError for a field that has no words.
    """
    rows = (
        (f"`{field.encode_name}`", in_words(field.type), _default(field), meaning(struct, field.name))
        for field in _fields(struct)
    )
    purpose = re.sub(r"\bNone\b", "null", inspect.cleandoc(struct.__doc__ or ""))
    return f"{prose(purpose)}\n\n{table(('field', 'type', 'default', 'meaning'), rows)}"


def inner(struct: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """Return the structs that one holds, and those that they hold."""
    for field in _fields(struct):
        for held in _structs(field.type):
            yield held
            yield from inner(held)


def meaning(struct: type[msgspec.Struct], field: str) -> str:
    """
    Say what a field of a struct holds, in this order: in the page's words for it, the code's, those for all.

    Raises: KeyError when there are none.
    """
    words = {**COMMON, **comments(struct), **OWN.get(struct.__name__, {})}
    if field not in words:
        raise KeyError(f"{struct.__name__}.{field} has no words: write a comment beside it, or add it to {__name__}")
    return words[field]


def comments(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return what stands beside each field in the source, or below it, of a struct and those that it extends."""
    found: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        if kind is not msgspec.Struct and issubclass(kind, msgspec.Struct) and kind.__module__.startswith("mayfly."):
            found |= dict(_beside(inspect.getsource(kind)))
    return found


def _beside(source: str) -> Iterator[tuple[str, str]]:
    field, begin = "", 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.start[1] == 4 and token.line[token.end[1] : token.end[1] + 1] == ":":
            field, begin = token.string, token.start[0]
        elif token.type == tokenize.COMMENT and field and token.start[0] == begin:
            yield field, _sentence(token.string.lstrip("# "))
        elif token.type == tokenize.STRING and field and token.start[1] == 4:
            yield field, _sentence(token.string.strip('"'))
        elif token.type == tokenize.NAME and token.string in {"def", "@"}:
            return


def _sentence(text: str) -> str:
    words = " ".join(text.split()).rstrip(".")
    return f"{words[:1].upper()}{words[1:]}."


def in_words(kind: types.Type) -> str:
    """
    Say what a field may hold.

    Raises: TypeError for what is not known here: a page must not say `object`.
    """
    if isinstance(kind, types.UnionType):
        parts = [*(part for part in kind.types if not isinstance(part, types.NoneType)), *kind.types]
        words = ("null" if isinstance(part, types.NoneType) else in_words(part) for part in parts)
        return ", or ".join(dict.fromkeys(words))
    return _collection(kind) or _scalar(kind)


def _collection(kind: types.Type) -> str:
    match kind:
        case types.StructType(cls=struct):
            return f"[{struct.__name__}](#{struct.__name__.lower()})"
        case types.VarTupleType(item_type=item) | types.ListType(item_type=item):
            return f"list of {in_words(item)}"
        case types.TupleType(item_types=items):
            return " and ".join(map(in_words, items))
    return ""


def _scalar(kind: types.Type) -> str:
    match kind:
        case types.StrType(pattern=pattern):
            words = "text" if pattern is None else NAMED[pattern]
        case types.IntType() | types.FloatType():
            words = _number(kind)
        case types.BytesType(max_length=most):
            words = "bytes" if most is None else f"bytes, at most {most:,}"
        case types.EnumType(cls=members):
            words = ", ".join(f"`{member.value}`" for member in members)
        case types.LiteralType(values=values):
            words = ", ".join(f"`{value}`" for value in values)
        case types.BoolType():
            words = "true or false"
        case _:
            raise TypeError(f"the page has no words for {kind}")
    return words


def _number(kind: types.IntType | types.FloatType) -> str:
    bounds = (kind.ge, kind.le)
    if bounds in BOUNDS:
        return BOUNDS[bounds]
    words = "whole number" if isinstance(kind, types.IntType) else "number"
    least = f" from {kind.ge:,}" if kind.ge is not None else f" above {kind.gt:,}" if kind.gt is not None else ""
    return words + least + (f" to {kind.le:,}" if kind.le is not None else "")


def _default(field: types.Field) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
    if value is msgspec.NODEFAULT:
        return "" if field.required else "none"
    if value is None:
        return "null"
    if value in ("", b"", ()):
        return "empty"
    if isinstance(value, msgspec.Struct) or callable(value):
        return "its own defaults"
    return f"`{re.sub(r'^(True|False)$', lambda found: found[0].lower(), str(getattr(value, 'value', value)))}`"


def _fields(struct: type[msgspec.Struct]) -> tuple[types.Field, ...]:
    info: Any = types.type_info(struct)
    fields: tuple[types.Field, ...] = info.fields
    return fields


def _structs(kind: types.Type) -> Iterator[type[msgspec.Struct]]:
    match kind:
        case types.StructType(cls=struct):
            yield struct
        case types.UnionType(types=parts) | types.TupleType(item_types=parts):
            for part in parts:
                yield from _structs(part)
        case types.VarTupleType(item_type=item) | types.ListType(item_type=item):
            yield from _structs(item)
