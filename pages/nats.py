"""
docs/reference/nats.md: every stream, bucket, consumer and subject, from mayfly.bus and the permissions of each role.

What the code cannot say (what something is for) stands here, in `STREAMS`, `BUCKETS`, `SUBJECTS` and `QUESTIONS`. Who
may read and write is not said but found out, from the permissions. Something new without words, words for something
that is gone, and a permission that no line explains: the page cannot be made.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgspec
from nats.js import api

from mayfly.bus import schema, subjects
from mayfly.bus.codec import VERSION
from mayfly.bus.connection import inbox_prefix
from mayfly.bus.inspect import PRIVATE
from mayfly.bus.retention import Books
from mayfly.bus.stores import Stores
from mayfly.domain import image, worker
from mayfly.domain.activation import RECORD_MARGIN_S, Response, Work
from mayfly.domain.audit import AuditEntry
from mayfly.domain.place import Place
from mayfly.ops import nats_config
from mayfly.services.admission import PLACE_MARGIN_S
from mayfly.services.invitations import KEPT_LONGER_S
from mayfly.settings import BootstrapSettings
from pages.page import code, prose, table
from pages.structs import NAMED, described, inner

HEAD = """# NATS

<!-- made by scripts/docs from src/mayfly/bus, src/mayfly/domain and src/mayfly/ops/nats_config.py -->

Everything that lies on NATS or goes over it. `mayfly bootstrap` makes the streams, the buckets and the consumer, and
brings them up to date; nobody else may. How the servers themselves are set stands in
[configuration](configuration.md#nats), who may do what and why in [deploy/nats](../../deploy/nats/README.md).

- **Look at it**: `mayfly inspect` says how much lies where, `mayfly inspect NAME` what lies in one stream or bucket,
  with `--json` as one object a line. It reads at the NATS of a `mayfly up` (`--data-dir`) or of a deployment
  (MAYFLY_NATS_URL and what else `mayfly bootstrap` takes), and claims and changes nothing. Nobody is shown what is the
  users' own: {private}.
- **Copies** of each: MAYFLY_NATS_REPLICAS, by default {replicas}, in a cluster 3. All are on disk.
- **Values** are MessagePack, each of one struct below with its version `v`, now {version}; a program reads this version
  and the one before. Anything else is refused, logged, and left where it lies.
- **Who** is what the permissions of `mayfly secrets create` let a role do. `admin` (bootstrap, backup, restore,
  inspect) may do everything and is not named below.
- Ids in braces, such as `{{user}}`, stand for one token each.
"""


@dataclass(frozen=True, slots=True)
class Thing:
    """A stream or a bucket: what it holds, how its subjects or keys are formed, how an entry ends, and its structs."""

    holds: str
    form: str
    ends: str
    structs: tuple[type[msgspec.Struct], ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject: what is said on it, and what is answered there, if anything."""

    subject: str
    says: str
    payload: str
    answer: str = ""


STREAMS = {
    subjects.ACT: Thing(
        "The activations in flight, waiting and running alike: the queue, and the exact limit on concurrency. NATS "
        "itself refuses message M + 1, and message U + 1 of one user. The message's id (`Nats-Msg-Id`) is the "
        f"activation's `ulid`, which NATS refuses to take twice within {schema.DEDUPE_WINDOW_S:g} s",
        f"`{subjects.act('{user}')}`",
        "with the worker's ack, after the final state was written; one that nobody settled "
        f"{schema.LEAK_BACKSTOP_S:g} s after its deadline",
        (Work,),
    ),
    subjects.RESPONSES: Thing(
        "What workers answered: each result or failure, with the stderr that is kept. Also the books: how much of each "
        "user's lies here, written by API servers",
        f"`{subjects.response('{user}.{instance}.{ulid}')}`; the books: `{subjects.books('{user}')}`; "
        f"`{subjects.probe()}`: an API server tries whether anything is taken",
        "after MAYFLY_RECORD_KEEP_S, sooner for a user who has much (MAYFLY_RESPONSES_MAX_BYTES_PER_USER); the probe "
        "after 1 s",
        (Response, Books),
    ),
    subjects.AUDIT: Thing(
        "The audit trail: who did or tried what. `{kind}` is "
        f"`{subjects.LOGINS}`, `{subjects.DONE}` or `{subjects.TRIED}`, and `{{user}}` is `{subjects.NOBODY}` where "
        "there is no such user. [See who did what](../howto/see-who-did-what.md)",
        f"`{subjects.audit('{user}', '{kind}')}`",
        f"after {schema.AUDIT_KEEP_S / 86_400:g} days, or when it is the oldest of too many",
        (AuditEntry,),
    ),
}
BUCKETS = {
    subjects.USERS: Thing("Accounts", "`{user name}`", "never; a deleted one leaves a tombstone", ()),
    subjects.SESSIONS: Thing(
        "Logins and keys. A token is good only while its session is here",
        "`{user}.{session}`",
        "when its refresh token (MAYFLY_REFRESH_TOKEN_S) or the key ends",
        (),
    ),
    subjects.FUNCTIONS: Thing("Functions", "`{user}.{function name}`", "never; a deleted one leaves a tombstone", ()),
    subjects.ACTIVATIONS: Thing(
        "The record of each activation. A call's state is what stands here, whatever else says otherwise. Each change "
        "is republished on `done.{instance}.{ulid}`",
        "`{user}.{instance}.{ulid}`",
        "MAYFLY_RECORD_KEEP_S after its end, sooner for a user who has very many; one that nobody ended "
        f"{RECORD_MARGIN_S:g} s after its deadline",
        (),
    ),
    subjects.IDEMPOTENCY: Thing(
        "What each Idempotency-Key stands for", "`{user}.{SHA-256 of the key, in hex}`", "with the record, or later", ()
    ),
    subjects.PLACES: Thing(
        "The places taken of limits that the work stream cannot count: a function's `max_concurrency`, a user's own",
        "`{user}.{function id}.{number}`, `{user}.user.{number}`",
        f"with the activation; if nobody frees it, {PLACE_MARGIN_S:g} s after its deadline. It leaves nothing behind",
        (Place,),
    ),
    subjects.WORKERS: Thing(
        f"The workers' signs of life, one every {worker.BEAT_EVERY_S:g} s",
        "`{worker}`",
        f"{worker.BEAT_LIVES_S:g} s after the last one; last words {worker.GONE_LIVES_S:g} s after",
        (),
    ),
    subjects.ATTEMPTS: Thing(
        "Failed logins, changes of a password and registrations, counted",
        "`{hash of a user name, an address, or both}`",
        "MAYFLY_LOGIN_FAILURES_KEPT_S after the last one; the oldest go first when it is full",
        (),
    ),
    subjects.ADDRESSES: Thing(
        "Where each user has logged in",
        "`{hash of a user name and an address}`",
        "MAYFLY_KNOWN_ADDRESS_S after the last login from there; the oldest go first when it is full",
        (),
    ),
    subjects.INVITATIONS: Thing("Invitations", "`{invitation}`", f"{KEPT_LONGER_S:g} s after it has expired", ()),
    subjects.SECRETS: Thing(
        "The values of functions' secrets, sealed",
        "`{user}.{function id}.{secret's name}.{version}`",
        "when it is replaced or deleted, or its function is. It leaves nothing behind",
        (),
    ),
    subjects.REGISTRIES: Thing(
        "Users' credentials for registries, the password sealed",
        "`{user}.{SHA-256 of the host, in hex}`",
        "never; a deleted one leaves a tombstone",
        (),
    ),
}
YES_OR_NO = "`1` or `0`"
SUBJECTS = {
    "act": Subject(subjects.act("{user}"), "a call is queued", "[Work](#work), in `ACT`"),
    "response": Subject(
        subjects.response("{user}.{instance}.{ulid}"), "an activation ended", "[Response](#response), in `RESPONSES`"
    ),
    "books": Subject(
        subjects.books("{user}"), "how much of a user's lies in `RESPONSES`", "[Books](#books), in `RESPONSES`"
    ),
    "probe": Subject(subjects.probe(), "whether `RESPONSES` takes anything", "nothing, in `RESPONSES` for 1 s"),
    "kept": Subject(
        subjects.kept("{user}", "{instance}", "{ulid}"),
        "something came into `RESPONSES`",
        "the headers, with size and sequence",
    ),
    "done": Subject(subjects.done("{instance}", "{ulid}"), "a record changed", "[Activation](#activation)"),
    "audit": Subject(
        subjects.audit("{user}", "{kind}"), "somebody did or tried something", "[AuditEntry](#auditentry), in `AUDIT`"
    ),
    "owns": Subject(subjects.owns("{worker}"), "do you have this activation?", "the record's key", YES_OR_NO),
    "cancel": Subject(
        subjects.cancel("{worker}"),
        "end this activation",
        "the record's key; the header `Mayfly-By-Operator` if an operator wants it",
        YES_OR_NO,
    ),
    "drain": Subject(
        subjects.drain("{worker}"), "claim nothing more (`1`), or claim again (`0`)", YES_OR_NO, "`1`, when it is so"
    ),
    "PREPARE_IMAGE": Subject(
        subjects.PREPARE_IMAGE,
        f"resolve a reference and have its image ready; one of the group `{subjects.PREPARERS}` does",
        "[PrepareImage](#prepareimage)",
        "[ImageAnswer](#imageanswer)",
    ),
    "PREFETCH_IMAGE": Subject(
        subjects.PREFETCH_IMAGE, "have this image ready; all workers do", "[PrepareImage](#prepareimage)"
    ),
}
NO_SUBJECT_OF_ITS_OWN = {
    "kv_stream",
    "kv_subject",
    "message_get",
    "message_delete",
    "stream_info",
    "consumer_info",
    "responses_for",
    "responses_of",
    "done_for",
    "places_of",
}
"""Functions of `mayfly.bus.subjects` that name a key, a bucket, a question to JetStream, or several subjects."""

QUESTIONS = {
    "$JS.API.STREAM.MSG.GET.": "read a message of that stream",
    "$JS.API.STREAM.MSG.DELETE.": "remove a message of that stream",
    "$JS.API.STREAM.INFO.": "ask how that stream stands, and which keys it has",
    "$JS.API.STREAM.PURGE.": "remove messages of that stream by their subject",
    "$JS.API.CONSUMER.INFO.": "ask how the consumer stands, and what time it is",
    "$JS.API.CONSUMER.MSG.NEXT.": "claim",
    "$JS.API.INFO": "ask how full the store is",
    "$JS.ACK.": "ack, give back, or say that work goes on",
    "$KV.": "write into that bucket",
    nats_config.ANSWERS: "answer what was asked from the other account",
    f"{inbox_prefix(nats_config.API)}.": "be answered",
    f"{inbox_prefix(nats_config.WORKER)}.*.*": "answer another worker",
    f"{inbox_prefix(nats_config.WORKER)}.": "be answered, and be given work",
}
"""What JetStream is asked, and how answers come: the rest of what a role may publish or hear. By how it begins."""

TYPES = {
    "token": "1 to 64 of `a-z`, `0-9` and `-`: what may stand in a subject",
    "up to three tokens": "with dots between them",
    "digest": "`sha256:` and 64 hex digits",
    "line of ASCII": "up to 512 printable characters",
    "text without NUL": "any other character",
    "name of a variable": "1 to 64 letters, digits and `_`, the first one no digit",
    "count": "a whole number from 0 to 2^53",
    "moment": "seconds since 1970, UTC, by NATS's clock",
    "seconds": "a time span",
}


def page() -> str:
    """
    Write the whole page.

    Raises: ValueError when something has no words, or words are for something that is not there.
    """
    settings = BootstrapSettings()
    same("streams", STREAMS, {subjects.ACT, subjects.RESPONSES, subjects.AUDIT})
    same("buckets", BUCKETS, subjects.BUCKETS)
    same("subjects", SUBJECTS, subjects_in_the_code())
    same("types", [name for name in TYPES if name not in {"count", "moment", "seconds"}], NAMED.values())
    head = HEAD.format(
        private=", ".join(f"`{name}`" for name in sorted(PRIVATE)), replicas=settings.nats_replicas, version=VERSION
    )
    return "\n\n".join(
        [
            head.rstrip(),
            "## Streams",
            *(_stream(name, STREAMS[name], config) for name, config in _configured(settings, STREAMS)),
            _consumer(),
            "## Buckets",
            prose(
                "The database. The bucket `x` is the stream `KV_x`, with one message for each key: the newest. "
                "A change is a compare-and-set with the revision at which the entry was read."
            ),
            *(_bucket(name, BUCKETS[name], config) for name, config in _configured(settings, BUCKETS)),
            "## Subjects",
            prose(
                "What is said on NATS besides the writes into buckets (`$KV.{bucket}.{key}`). Who sends and who "
                "hears is what the permissions allow."
            ),
            table(
                ("subject", "says or asks", "sent by", "heard by", "holds", "answer"),
                (_subject_row(each) for each in SUBJECTS.values()),
            ),
            "## Permissions",
            prose(
                "All that a role may publish and hear. A worker is in an account of its own and reaches the streams' "
                "account by the services that are exported to it; what `$JS.API` answers about streams is called "
                f"`{subjects.WORKERS_API}` there."
            ),
            table(("role", "may", "to", "subjects"), _permission_rows()),
            "## Values\n\n" + table(("type", "is"), TYPES.items()),
            *(f"### {struct.__name__}\n\n{described(struct)}" for struct in structs()),
        ]
    ) + ("\n\n<!-- Rows: A3, A4. -->\n")


def same(what: str, described_here: Collection[str], in_the_code: Collection[str]) -> None:
    """Raises: ValueError when the two are not the same names."""
    if different := set(described_here) ^ set(in_the_code):
        raise ValueError(f"{what} of the code and of {__name__} differ: {', '.join(sorted(different))}")


def subjects_in_the_code() -> set[str]:
    """Return the names by which `mayfly.bus.subjects` knows a subject: functions, and constants that are one."""
    functions = {
        name for name, each in vars(subjects).items() if callable(each) and each.__module__ == subjects.__name__
    }
    dotted = {name for name, each in vars(subjects).items() if name.isupper() and isinstance(each, str) and "." in each}
    return (functions - NO_SUBJECT_OF_ITS_OWN) | (dotted - {"STREAMS_API", "WORKERS_API"})


def structs() -> list[type[msgspec.Struct]]:
    """Return every struct that is stored or sent, each before those that it holds."""
    stored = [struct for each in STREAMS.values() for struct in each.structs] + [_stored(name) for name in BUCKETS]
    sent: list[type[msgspec.Struct]] = [image.PrepareImage, image.ImageAnswer]
    found: dict[type[msgspec.Struct], None] = {}
    for struct in stored + sent:
        found.update(dict.fromkeys((struct, *inner(struct))))
    return list(found)


def _stored(bucket: str) -> type[msgspec.Struct]:
    """Return the struct of a bucket's values."""
    if BUCKETS[bucket].structs:
        return BUCKETS[bucket].structs[0]
    store: Any = get_type_hints(Stores)[bucket]
    struct: type[msgspec.Struct] = store.__args__[0]
    return struct


def _configured(settings: BootstrapSettings, names: Collection[str]) -> Iterator[tuple[str, api.StreamConfig]]:
    for config in schema.all_streams(settings):
        name = str(config.name).removeprefix("KV_")
        if name in names:
            yield name, config


def _stream(name: str, thing: Thing, config: api.StreamConfig) -> str:
    rows = [
        ("subjects", thing.form),
        ("an entry ends", thing.ends),
        *_limits(config),
        ("written by", _publishers(config.subjects or [])),
        ("read by", _readers(name)),
        ("removed by", _removers(name)),
        ("value", ", ".join(_link(struct) for struct in thing.structs)),
        ("look", f"`mayfly inspect {name}`"),
    ]
    return f"### {name}\n\n{prose(thing.holds)}.\n\n{table(('', ''), rows)}"


def _bucket(name: str, thing: Thing, config: api.StreamConfig) -> str:
    rows = [
        ("key", thing.form),
        ("an entry ends", thing.ends),
        *_limits(config),
        ("written by", _publishers(config.subjects or [])),
        ("read by", _may(subjects.message_get(str(config.name)))),
        *([("removed by", _removers(str(config.name)))] if name in subjects.LEAVE_NOTHING else []),
        ("value", _link(_stored(name))),
        ("look", f"`mayfly inspect {name}`"),
    ]
    return f"### {name}\n\n{prose(thing.holds)}.\n\n{table(('', ''), rows)}"


def _limits(config: api.StreamConfig) -> Iterator[tuple[str, str]]:
    most = [
        "M messages (MAYFLY_MAX_ACTIVATIONS), U of one subject (MAYFLY_MAX_ACTIVATIONS_PER_USER)"
        if config.name == subjects.ACT
        else f"{config.max_msgs_per_subject:,} of one subject"
        if (config.max_msgs_per_subject or 0) > 1
        else "",
        "MAYFLY_RESPONSES_MAX_BYTES"
        if config.name == subjects.RESPONSES
        else f"{config.max_bytes >> 20:,} MiB"
        if config.max_bytes and config.max_bytes > 0
        else "",
    ]
    refuses = config.discard is api.DiscardPolicy.NEW
    yield "at most", ", ".join(filter(None, most)) or "what the store has room for"
    if (config.max_msg_size or -1) > 0:
        yield "one message", f"at most {config.max_msg_size:,} bytes"
    yield "when full", "refuses what is new" if refuses else "drops the oldest"


def _consumer() -> str:
    consumer = schema.work_consumer()
    rows = [
        ("used by", "all workers, each of which pulls as much as it has slots free"),
        ("ack", f"explicit, within {consumer.ack_wait:g} s; a worker says every few seconds that work goes on"),
        ("delivered again", "when that time is over: without end (`max_deliver` -1)"),
        ("at once", "without bound: slots are the bound (`max_ack_pending` -1)"),
        ("pulls that wait", f"{consumer.max_waiting:,}"),
        ("look", "`mayfly status`, which says how many wait and run"),
    ]
    return (
        f"### Consumer {code(consumer.durable_name)} of ACT\n\nThe one consumer there is: it hands the queue to the "
        f"workers.\n\n{table(('', ''), rows)}"
    )


def roles() -> dict[str, dict[str, list[str]]]:
    """Return what each role may publish and hear, by the names that the account with the streams has for it."""
    api_may, worker_may = nats_config.api_permissions(), nats_config.worker_permissions()
    own = [subject for subject in worker_may["publish"] if not subject.startswith(f"{subjects.WORKERS_API}.")]
    published = dict.fromkeys((*nats_config.worker_services(), *own))
    return {
        "API server": {"publish": api_may["publish"], "hear": api_may["subscribe"]},
        "worker": {"publish": list(published), "hear": worker_may["subscribe"]},
    }


def matches(subject: str, pattern: str) -> bool:
    """Say whether a subject is one of those that a pattern with NATS's wildcards means."""
    words, wanted = subject.split("."), pattern.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        words = words[: len(wanted)] if len(words) > len(wanted) else [""]
    return len(words) == len(wanted) and all(one in {"*", word} for word, one in zip(words, wanted, strict=True))


def _may(subject: str, verb: str = "publish") -> str:
    """Name the roles that may do this with a subject, in which what stands in braces is a token."""
    sample = re.sub(r"\{[^}]*\}", "x", subject)
    return ", ".join(role for role, may in roles().items() if any(matches(sample, one) for one in may[verb]))


def overlap(one: str, other: str) -> bool:
    """Say whether a subject can be meant by both patterns."""
    words, others = one.split("."), other.split(".")
    for word, wanted in zip(words, others, strict=False):
        if ">" in (word, wanted):
            return True
        if "*" not in (word, wanted) and word != wanted:
            return False
    return len(words) == len(others)


def _publishers(kept: list[str]) -> str:
    """Name the roles that may publish anything that a stream keeps."""
    able = [
        role
        for role, may in roles().items()
        if any(overlap(one, pattern) for one in may["publish"] for pattern in kept)
    ]
    return ", ".join(able) or "nobody"


def _readers(stream: str) -> str:
    claiming = _may(f"{subjects.STREAMS_API}.CONSUMER.MSG.NEXT.{stream}.{subjects.ACT_CONSUMER}")
    return ", ".join(
        filter(None, (_may(subjects.message_get(stream)), f"{claiming} (what it claims)" if claiming else ""))
    )


def _removers(stream: str) -> str:
    ways = {
        "one by one": _may(subjects.message_delete(stream)),
        "by subject": _may(f"{subjects.STREAMS_API}.STREAM.PURGE.{stream}"),
        "by acks": _may(f"$JS.ACK.{stream}.{subjects.ACT_CONSUMER}.x"),
    }
    return ", ".join(f"{roles} ({way})" for way, roles in ways.items() if roles) or "nobody"


def _subject_row(each: Subject) -> tuple[str, ...]:
    sent = _may(each.subject) or "nats-server, which republishes it"
    return (f"`{each.subject}`", each.says, sent, _may(each.subject, "hear") or "-", each.payload, each.answer or "-")


def _permission_rows() -> Iterator[tuple[str, str, str, str]]:
    for role, may in roles().items():
        for verb, allowed in may.items():
            by_purpose: dict[str, list[str]] = {}
            for subject in sorted(allowed):
                by_purpose.setdefault(_to(subject), []).append(f"`{subject}`")
            for purpose, named in by_purpose.items():
                yield role, verb, purpose, ", ".join(named)


def _to(subject: str) -> str:
    """
    Say what a permission is for.

    Raises: ValueError when nothing above explains it.
    """
    for beginning, words in QUESTIONS.items():
        if subject.startswith(beginning):
            return words
    samples = {re.sub(r"\{[^}]*\}", "x", each.subject): each for each in SUBJECTS.values()}
    found = [each.says for sample, each in samples.items() if matches(sample, subject)]
    if not found:
        raise ValueError(f"nothing on the page explains that a role may use {subject}: add it to {__name__}")
    return "; ".join(dict.fromkeys(found))


def _link(struct: type[msgspec.Struct]) -> str:
    return f"[{struct.__name__}](#{struct.__name__.lower()})"
