"""
Charges an invoice at a payment service, once, however often it is asked to.

Takes and gives JSON as docs/explanation/external-services.md describes it. The service is asked again, with the same
key, while it is busy and there is time; what came of it is in the result, and the token is nowhere.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

VERSION = 1
RESERVE_S = 0.5  # of the deadline, for answering
PAUSE_S, PAUSE_AT_MOST_S = 0.2, 5.0
KEEP_S = 3600
BUSY = {429, 502, 503, 504}


def main() -> None:
    """Read the parameter, do it, write the result."""
    asked = json.load(sys.stdin)
    if asked.get("v") != VERSION:
        result = outcome(error("unknown-version", f"this function knows v {VERSION}", retryable=False))
    else:
        result = charge(asked, deadline(asked))
    json.dump(result, sys.stdout)


def deadline(asked: dict[str, Any]) -> float:
    """When the answer must be there: the caller's word or Mayfly's, whichever comes first."""
    mayflys = float(os.environ.get("MAYFLY_DEADLINE", "inf"))
    return min(float(asked.get("deadline", "inf")), mayflys) - RESERVE_S


def charge(asked: dict[str, Any], until: float) -> dict[str, Any]:
    """Ask the service until it has answered, or there is no time for another attempt."""
    pause_s = PAUSE_S
    while True:
        failure = attempt(asked, until)
        if "ok" in failure:
            return failure
        pause_s = failure["retry_after_s"] or min(pause_s * 2, PAUSE_AT_MOST_S)
        if not failure["retryable"] or time.time() + pause_s >= until:
            return outcome(failure)
        print(f"{failure['message']}; again in {pause_s:g} s", file=sys.stderr)
        time.sleep(pause_s)


def attempt(asked: dict[str, Any], until: float) -> dict[str, Any]:
    """Ask once; return the result, or the error."""
    service = asked["services"]["payments"]
    request = urllib.request.Request(  # noqa: S310 - whoever calls decides where, and the operator what can be reached
        f"{service['endpoint']}/charges",
        data=json.dumps(asked["data"]).encode(),
        headers={
            "Authorization": f"Bearer {service['token']}",
            "Content-Type": "application/json",
            "Idempotency-Key": asked["idempotency_key"],
            "traceparent": asked.get("traceparent") or os.environ.get("MAYFLY_TRACEPARENT", ""),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=max(0.1, until - time.time())) as answer:  # noqa: S310 - likewise
            done = json.load(answer)
    except urllib.error.HTTPError as refused:
        after_s = refused.headers.get("Retry-After", "")
        return error(
            "payments-busy" if refused.code in BUSY else "payments-refused",
            f"{refused.code} from payments",
            retryable=refused.code in BUSY,
            retry_after_s=float(after_s) if after_s.isdigit() else None,
        )
    except (OSError, ValueError, http.client.HTTPException) as broken:  # the answer is lost, the charge may be made
        return error("payments-unreachable", f"payments: {broken}", retryable=True)
    effect = {"service": "payments", "kind": "charge", "id": done["id"], "state": done["status"]}
    return outcome(None, data={"charge": done["id"]}, effects=[effect])


def error(code: str, message: str, *, retryable: bool, retry_after_s: float | None = None) -> dict[str, Any]:
    """Say what went wrong, and whether the same call may be made again."""
    return {"code": code, "message": message, "retryable": retryable, "retry_after_s": retry_after_s}


def outcome(
    failure: dict[str, Any] | None, *, data: dict[str, Any] | None = None, effects: list[Any] | None = None
) -> dict[str, Any]:
    """Make the result."""
    return {
        "v": VERSION,
        "ok": failure is None,
        "data": data,
        "error": failure,
        "effects": effects or [],
        "expires_at": time.time() + KEEP_S,
    }


if __name__ == "__main__":
    try:
        main()
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        print(f"the parameter is not as described: {type(problem).__name__} {problem}", file=sys.stderr)
        sys.exit(2)
