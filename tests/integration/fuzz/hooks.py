"""
Loaded by schemathesis where what it calls ends the login with which it calls: each such call has a login of its own.

It registers at the server that is called, which FUZZ_URL and FUZZ_CA name.
"""

from __future__ import annotations

import os
from typing import Any

import httpx
import schemathesis

from mayfly.domain.ids import new_id

PASSWORD = "correct horse battery"


@schemathesis.auth(refresh_interval=None)
class FreshLogin:
    """A login of a new user for each call."""

    def get(self, _case: schemathesis.Case[Any], _context: schemathesis.AuthContext) -> str:
        """Register, log in, and return the token."""
        with httpx.Client(base_url=os.environ["FUZZ_URL"], verify=os.environ["FUZZ_CA"], timeout=60) as client:
            name = f"u-{new_id()}"
            client.post("/v1/users", json={"username": name, "password": PASSWORD}).raise_for_status()
            form = {"grant_type": "password", "username": name, "password": PASSWORD}
            answer = client.post("/v1/tokens", data=form).raise_for_status()
        return str(answer.json()["access_token"])

    def set(self, case: schemathesis.Case[Any], data: str, _context: schemathesis.AuthContext) -> None:
        """Call with it."""
        case.headers["Authorization"] = f"Bearer {data}"
