"""
Every subject, stream and bucket name, in one place.

Only checked ids and names (`domain.ids`) ever become tokens, so no caller can reach another's subject.
"""

from __future__ import annotations

ACT = "ACT"  # the work stream: admitted activations, waiting and running
ACT_CONSUMER = "workers"
RESPONSES = "RESPONSES"
AUDIT = "AUDIT"

USERS = "users"  # key: user name
SESSIONS = "sessions"  # key: <user id>.<session id>
FUNCTIONS = "functions"  # key: <user id>.<function name>
ACTIVATIONS = "activations"  # key: <user id>.<instance>.<ulid>
IDEMPOTENCY = "idempotency"
PLACES = "places"
WORKERS = "workers"  # key: <worker id>
ATTEMPTS = "attempts"  # key: hash of a user name, an address, or both
ADDRESSES = "addresses"  # where users have logged in; key: hash of user name and address
INVITATIONS = "invitations"  # key: <invitation id>
SECRETS = "secrets"  # key: <user id>.<function id>.<secret's key>.<version>
REGISTRIES = "registries"  # key: <user id>.<hash of the host>
BUCKETS = (
    USERS,
    SESSIONS,
    FUNCTIONS,
    ACTIVATIONS,
    IDEMPOTENCY,
    PLACES,
    WORKERS,
    ATTEMPTS,
    ADDRESSES,
    INVITATIONS,
    SECRETS,
    REGISTRIES,
)
LEAVE_NOTHING = (PLACES, SECRETS)  # their entries are removed, not replaced by a tombstone

STREAMS_API = "$JS.API"
WORKERS_API = "streams.API"  # its name in the workers' account, where `$JS.API` is that account's own, without streams

BOOKS = "books"  # in the place of an instance in RESPONSES: what API servers write there. Too short for an id

LOGINS = "logins"  # in the trail: a user's logins and what else takes his password
DONE = "done"  # all else that was done in his name: however much somebody does with a stolen token, his login stays
TRIED = "tried"  # what was tried with a wrong password: however often, it pushes out nothing else
NOBODY = "nobody"  # in the place of a user who does not exist. Too short for an id

PREPARE_IMAGE = "image.prepare"  # a request that one of the workers answers
PREPARERS = "workers"  # their queue group
PREFETCH_IMAGE = "image.prefetch"  # told to all workers


def kv_stream(bucket: str) -> str:
    """The stream behind a bucket."""
    return f"KV_{bucket}"


def kv_subject(bucket: str, key: str) -> str:
    """The subject behind a bucket's key."""
    return f"$KV.{bucket}.{key}"


def message_get(stream: str, api: str = STREAMS_API) -> str:
    """Where a message of a stream is asked for."""
    return f"{api}.STREAM.MSG.GET.{stream}"


def message_delete(stream: str) -> str:
    """Where a message of a stream is removed."""
    return f"{STREAMS_API}.STREAM.MSG.DELETE.{stream}"


def stream_info(stream: str, api: str = STREAMS_API) -> str:
    """Where the state of a stream is asked for."""
    return f"{api}.STREAM.INFO.{stream}"


def consumer_info(stream: str, consumer: str, api: str = STREAMS_API) -> str:
    """Where the state of a consumer is asked for."""
    return f"{api}.CONSUMER.INFO.{stream}.{consumer}"


def act(user_id: str) -> str:
    """Where a user's activations are queued; the stream counts them by this subject."""
    return f"act.{user_id}"


def response(key: str) -> str:
    """Where the response of the activation with this record key is published."""
    return f"response.{key}"


def responses_for(instance: str) -> str:
    """All responses that one API server waits for."""
    return f"response.*.{instance}.*"


def responses_of(user_id: str) -> str:
    """All responses of one user."""
    return f"response.{user_id}.>"


def kept(user_id: str, instance: str, ulid: str) -> str:
    """Where the server republishes the headers of each response."""
    return f"kept.{user_id}.{instance}.{ulid}"


def audit(user_id: str, kind: str) -> str:
    """Where a user's entries of the audit trail lie; each kind has room of its own."""
    return f"audit.{user_id}.{kind}"


def books(user_id: str) -> str:
    """Where it is written down how much of a user's lies in RESPONSES."""
    return response(f"{user_id}.{BOOKS}.size")


def probe() -> str:
    """Where an API server tries whether RESPONSES takes anything."""
    return response(f"{BOOKS}.{BOOKS}.probe")


def done(instance: str, ulid: str) -> str:
    """Where the server republishes each state of a record."""
    return f"done.{instance}.{ulid}"


def done_for(instance: str) -> str:
    """All records of the activations that one API server waits for."""
    return f"done.{instance}.*"


def owns(worker_id: str) -> str:
    """Where a worker answers whether it has an activation."""
    return f"worker.{worker_id}.owns"


def cancel(worker_id: str) -> str:
    """Where a worker is asked to end an activation."""
    return f"worker.{worker_id}.cancel"


def drain(worker_id: str) -> str:
    """Where a worker is told to claim nothing more, or to claim again."""
    return f"worker.{worker_id}.drain"


def places_of(user_id: str, of: str) -> str:
    """What the keys of one counted limit begin with: of a function, by its id, or of the user."""
    return f"{user_id}.{of}"
