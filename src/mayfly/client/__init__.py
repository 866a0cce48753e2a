"""
The typed client of the REST API, for programs and for the command line.

    async with Client("https://127.0.0.1:8443", ca_file=Path("ca.crt")) as client:
        await client.log_in("ann", password)
        answer = await client.invoke("upper", "hello")
        print(answer.text)

It knows the API by its description only, and nothing of the rooms behind it. There is no synchronous twin: wrap a
call in `asyncio.run`. Whatever goes wrong is a `ClientError`; `ran` says whether a function may have run.
"""

from __future__ import annotations

from mayfly.client.client import Client
from mayfly.client.errors import (
    ApiError,
    ClientError,
    InvalidCall,
    NotLoggedIn,
    NotMayfly,
    NotTrusted,
    Unreachable,
)
from mayfly.client.shapes import (
    Activation,
    AuditEntry,
    Function,
    InvokeResult,
    Key,
    Limits,
    Logs,
    MadeKey,
    OperatorStatus,
    Registry,
    Sandbox,
    Secret,
    Spec,
    Status,
    Steps,
    Stream,
    Usage,
    User,
    Worker,
)
from mayfly.client.tokens import FixedToken, MemoryTokens, TokenKeeper, Tokens

__all__ = [
    "Activation",
    "ApiError",
    "AuditEntry",
    "Client",
    "ClientError",
    "FixedToken",
    "Function",
    "InvalidCall",
    "InvokeResult",
    "Key",
    "Limits",
    "Logs",
    "MadeKey",
    "MemoryTokens",
    "NotLoggedIn",
    "NotMayfly",
    "NotTrusted",
    "OperatorStatus",
    "Registry",
    "Sandbox",
    "Secret",
    "Spec",
    "Status",
    "Steps",
    "Stream",
    "TokenKeeper",
    "Tokens",
    "Unreachable",
    "Usage",
    "User",
    "Worker",
]
