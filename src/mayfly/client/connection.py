"""
One HTTPS connection pool to one API: addresses, trust, time-outs, and what is shown of an exchange.

Answers that are no success, and connections that fail, leave as `ClientError`; httpx is not seen outside this package.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

import mayfly
from mayfly.client.errors import InvalidCall, transport_error

CONNECT_S = 10.0
WRITE_S = 60.0

Trace = Callable[[str], None]


def normal_url(text: str) -> str:
    """
    Write a base URL in the one way under which its tokens are kept.

    Raises: InvalidCall when it is none, or not https.
    """
    try:
        url = httpx.URL(text.strip())
        host = f"[{url.host}]" if ":" in url.host else url.host
    except (httpx.InvalidURL, UnicodeError) as error:  # a name that begins as IDNA and is none
        raise InvalidCall(f"{text!r} is not a URL: {error}.") from None
    if url.scheme != "https":
        raise InvalidCall(f"{text!r} is not an https:// URL. Mayfly answers over HTTPS only.")
    if not url.host or url.userinfo or url.query or url.fragment or any(map(str.isspace, text)):
        raise InvalidCall(f"{text!r} must be a host and perhaps a port and a path, such as https://127.0.0.1:8443.")
    port = "" if url.port in {None, 443} else f":{url.port}"
    return f"https://{host}{port}{url.path.rstrip('/')}"


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """
    Trust one authority, or the system's.

    Raises: InvalidCall when the file is not there or is no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise InvalidCall(f"{ca_file} is not a certificate authority's file in PEM format.") from None
    except OSError as error:
        raise InvalidCall(f"The certificate authority's file {ca_file} cannot be read: {error.strerror}.") from None


class Connection:
    """Sends requests, as many at once as are asked for."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        trace: Trace | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """
        *trace* is given each line of the exchange, without bodies and with the token masked.

        Raises: InvalidCall.
        """
        self.url = normal_url(url)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            verify=trust(ca_file) if transport is None else False,
            transport=transport,
            # a proxy of the environment's knows nothing of our own loopback
            trust_env=not _is_loopback(httpx.URL(self.url).host),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            headers={"User-Agent": f"mayfly/{mayfly.__version__}"},
            event_hooks=_hooks(trace) if trace else {},
        )

    async def close(self) -> None:
        """Close what is open."""
        await self._http.aclose()

    async def send(self, method: str, path: str, *, read_s: float, **options: Any) -> httpx.Response:
        """
        Send one request and read its answer, whatever it says; wait *read_s* seconds at most for each part of it.

        Raises: Unreachable; NotTrusted.
        """
        timeout = httpx.Timeout(CONNECT_S, read=read_s, write=WRITE_S)
        try:
            return await self._http.request(method, path, timeout=timeout, **options)
        except httpx.RequestError as error:
            raise transport_error(error, self.url) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hooks(trace: Trace) -> dict[str, list[Callable[..., Any]]]:
    async def sent(request: httpx.Request) -> None:
        trace(f"> {request.method} {request.url}")
        for name, value in request.headers.multi_items():
            trace(f"> {name}: {_masked(name, value)}")

    async def answered(response: httpx.Response) -> None:
        trace(f"< {response.http_version} {response.status_code} {response.reason_phrase}")
        for name, value in response.headers.multi_items():
            trace(f"< {name}: {value}")

    return {"request": [sent], "response": [answered]}


def _masked(name: str, value: str) -> str:
    return f"{value.partition(' ')[0]} ***" if name.lower() == "authorization" else value
