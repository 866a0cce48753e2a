"""
The file that keeps logins: one entry for each installation, with the last one used as the default.

It is readable by its owner only and replaced as a whole, so a reader finds the old file or the new one. A refresh
token is good once, and its second use ends the login; so whoever exchanges one holds the lock beside the file, and
looks first whether another command has exchanged it meanwhile.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mayfly.cli.exits import Refused
from mayfly.client.errors import NotLoggedIn
from mayfly.client.tokens import Exchange, Tokens, to_its_end

LOCK_WAIT_S = 60.0  # whoever has the lock talks to the server, which may take its time
LOCK_LOOK_S = 0.02


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who is logged in at one installation, and what it takes to go on calling it."""

    username: str
    tokens: Tokens
    ca_file: str | None = None


class Logins(msgspec.Struct, frozen=True, kw_only=True):
    """All of the file. `latest` is the URL that was logged in to last."""

    v: int = 1
    latest: str | None = None
    logins: dict[str, Login] = {}

    def having(self, url: str, login: Login) -> Logins:
        """Add or replace an entry."""
        return msgspec.structs.replace(self, logins={**self.logins, url: login})

    def used(self, url: str) -> Logins:
        """Make *url* the default."""
        return msgspec.structs.replace(self, latest=url)

    def without(self, url: str) -> Logins:
        """Leave an entry out."""
        left = {each: login for each, login in self.logins.items() if each != url}
        return Logins(latest=None if self.latest == url else self.latest, logins=left)


class LoginFile:
    """The file. Nothing is made before there is something to keep."""

    def __init__(self, directory: Path) -> None:
        """It is `logins.json` in *directory*."""
        self._directory = directory.expanduser()
        self.path = self._directory / "logins.json"

    def read(self) -> Logins:
        """
        Read what is kept.

        Raises: Refused when it is there and cannot be read.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Logins)
        except FileNotFoundError:
            return Logins()
        except OSError as error:
            raise Refused(f"{self.path} cannot be read: {error.strerror}.") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Refused(f"{self.path} is damaged. Remove it, and log in again.") from None

    def write(self, logins: Logins) -> None:
        """
        Replace the file. Hold the lock.

        Raises: Refused.
        """
        fresh = self.path.with_name(f".logins-{secrets.token_hex(8)}")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(logins), indent=2))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise Refused(f"The login cannot be kept in {self.path}: {error.strerror}.") from None

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Logins]:
        """
        Keep other commands away, and read what is kept.

        Raises: Refused.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._directory / "logins.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Refused(f"Logins cannot be kept in {self._directory}: {error.strerror}.") from None
        try:
            await _lock(descriptor, self._directory)
            yield self.read()
        finally:
            os.close(descriptor)


class KeptTokens:
    """The tokens of one entry, for the client to use and to renew."""

    def __init__(self, file: LoginFile, url: str) -> None:
        """They are those for *url*."""
        self._file = file
        self._url = url

    async def current(self) -> Tokens | None:
        """Read them."""
        login = self._file.read().logins.get(self._url)
        return login.tokens if login else None

    async def renewed(self, stale: Tokens, exchange: Exchange) -> Tokens:
        """
        Exchange the refresh token, unless another command did so while we waited.

        Raises: NotLoggedIn when another command logged out; ClientError.
        """
        async with self._file.locked() as logins:
            login = logins.logins.get(self._url)
            if login is None:
                raise NotLoggedIn(f"You are not logged in at {self._url} any more.")
            if login.tokens != stale:
                return login.tokens
            return await to_its_end(self._exchanged(logins, login, exchange))

    async def keep(self, tokens: Tokens | None) -> None:
        """Keep these, or leave the entry out."""
        async with self._file.locked() as logins:
            login = logins.logins.get(self._url)
            if tokens is None:
                self._file.write(logins.without(self._url))
            elif login is not None:
                self._file.write(logins.having(self._url, msgspec.structs.replace(login, tokens=tokens)))

    async def _exchanged(self, logins: Logins, login: Login, exchange: Exchange) -> Tokens:
        """Exchange what *login* has. The lock is held."""
        tokens = await exchange(login.tokens.refresh_token or "")
        self._file.write(logins.having(self._url, msgspec.structs.replace(login, tokens=tokens)))
        return tokens


async def _lock(descriptor: int, directory: Path) -> None:
    """Try again and again rather than block, so that Ctrl-C ends the wait."""
    try:
        async with asyncio.timeout(LOCK_WAIT_S):
            while not _locked(descriptor):  # noqa: ASYNC110 - a file's lock wakes nobody
                await asyncio.sleep(LOCK_LOOK_S)
    except TimeoutError:
        raise Refused(f"Another mayfly command holds {directory}/logins.lock and does not let go.") from None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
