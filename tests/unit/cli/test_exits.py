"""Exit statuses: each code of the API's has the one that a script can rely on."""

from __future__ import annotations

import pytest

from mayfly.api.errors import MEANINGS
from mayfly.cli.exits import EXITS, exit_status
from mayfly.client import ApiError, InvalidCall, NotLoggedIn, NotMayfly, NotTrusted, Unreachable

BY_CODE = {
    "invalid-request": 2,
    "not-authenticated": 4,
    "not-allowed": 4,
    "not-found": 5,
    "method-not-allowed": 2,
    "body-timeout": 2,
    "already-exists": 5,
    "idempotency-conflict": 2,
    "gone": 5,
    "precondition-failed": 5,
    "parameter-too-large": 2,
    "body-too-large": 2,
    "unsupported-encoding": 2,
    "unsupported-media-type": 2,
    "image-unavailable": 5,
    "parameter-not-text": 2,
    "concurrency-limit": 3,
    "too-many-attempts": 3,
    "gateway-rate-limit": 3,
    "head-too-large": 2,
    "cancelled": 1,
    "internal-error": 6,
    "function-failed": 1,
    "result-not-text": 1,
    "result-too-large": 1,
    "out-of-memory": 1,
    "worker-lost": 6,
    "runtime-failed": 6,
    "secret-unavailable": 6,
    "bad-gateway": 6,
    "queue-unavailable": 6,
    "no-workers": 6,
    "gateway-unavailable": 6,
    "timed-out": 1,
    "gateway-timeout": 6,
}


@pytest.mark.parametrize("error", MEANINGS, ids=lambda error: error.code)
def test_every_error_of_the_api_has_its_status(error: type) -> None:
    """The table here is complete, so a new code of the API's does not get a status by accident."""
    problem = {"code": error.code, "detail": "So it is.", "fault": error.fault, "ran": "no"}  # type: ignore[attr-defined]

    assert exit_status(ApiError(problem, status=MEANINGS[error].status)) == BY_CODE[problem["code"]]


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidCall, 2), (NotLoggedIn, 4), (NotMayfly, 6), (Unreachable, 6), (NotTrusted, 6)],
)
def test_every_error_of_the_client_has_its_status(error: type[Exception], status: int) -> None:
    """What the client itself finds wrong is the caller's mistake, or the way to the platform."""
    assert exit_status(error("So it is.")) == status  # type: ignore[arg-type]


def test_every_status_is_explained() -> None:
    """No command ends with a status that the help does not name."""
    assert set(BY_CODE.values()) | {0, 130, 141} == set(EXITS)
