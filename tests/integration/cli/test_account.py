"""Accounts and logins from the command line, against a real API server."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from tests.integration.cli.command import PASSWORD, Mayfly
from tests.support.api import ApiServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRONG = "incorrect horse battery"


@pytest.mark.F2
async def test_register_makes_an_account_and_logs_in(anybody: Mayfly, name: str) -> None:
    """After `register` the next command is that user's, and stdout had nothing, for there was no data."""
    registered = await anybody("register", name, "--password-stdin", stdin=f"{PASSWORD}\n".encode())
    who = await anybody("whoami")

    assert (registered.status, registered.stdout) == (0, b"")
    assert registered.stderr == f"{name} is registered and logged in at {anybody.url}.\n"
    assert (who.status, who.stdout) == (0, f"{name}\n".encode())


@pytest.mark.F3
async def test_tokens_are_kept_where_only_the_owner_can_read(anybody: Mayfly, name: str) -> None:
    """The file and its lock are 0600, the directory is 0700, no password is in it and nothing else is left there."""
    await anybody("register", name, "--password-stdin", stdin=PASSWORD.encode())
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in anybody.config_dir.iterdir()}

    assert files == {"logins.json": 0o600, "logins.lock": 0o600}
    assert stat.S_IMODE(anybody.config_dir.stat().st_mode) == 0o700
    assert PASSWORD not in anybody.login_file.read_text()


@pytest.mark.F2
async def test_a_taken_name_is_told(mayfly: Mayfly, name: str) -> None:
    """Registering a name that is taken ends with status 5 and a sentence."""
    ended = await mayfly("register", name, "--password-stdin", stdin=PASSWORD.encode())

    assert (ended.status, ended.stdout) == (5, b"")
    assert ended.stderr.startswith("mayfly: ")
    assert "taken" in ended.stderr


@pytest.mark.F2
async def test_what_cannot_be_a_user_is_told_by_the_api(anybody: Mayfly) -> None:
    """A name or a password that cannot be ends with status 2 and the rule, and the password is not repeated."""
    ended = await anybody("register", "Ann!", "--password-stdin", stdin=b"short1")

    assert ended.status == 2
    assert "`username`" in ended.stderr
    assert "`password` must have at least 10" in ended.stderr
    assert "short1" not in ended.stderr


@pytest.mark.F3
async def test_login_with_a_wrong_password_is_refused(mayfly: Mayfly, name: str) -> None:
    """A wrong password ends with status 4, is not repeated, and leaves the login that was there."""
    ended = await mayfly("login", name, "--password-stdin", stdin=WRONG.encode())

    assert (ended.status, ended.stderr) == (4, "mayfly: User name or password is wrong.\n")
    assert (await mayfly("whoami")).status == 0


@pytest.mark.F3
async def test_logout_ends_the_login_and_forgets_it(mayfly: Mayfly) -> None:
    """After `logout` nothing is kept, and the token that was kept is refused by the API."""
    token = mayfly.login()["tokens"]["access_token"]

    ended = await mayfly("logout")
    after = await mayfly("whoami")
    stolen = await mayfly.with_(MAYFLY_TOKEN=token)("whoami")

    assert ended.status == 0
    assert "logins" not in mayfly.login_file.read_text() or mayfly.url not in mayfly.login_file.read_text()
    assert (after.status, stolen.status) == (4, 4)
    assert "not logged in" in after.stderr
    assert "`mayfly login NAME`" in after.stderr


async def test_logout_forgets_also_where_nobody_answers(mayfly: Mayfly) -> None:
    """If the API cannot be reached the tokens are forgotten here, the user is told, and the status is 6."""
    gone = "https://127.0.0.1:9"
    kept = mayfly.login_file.read_text().replace(mayfly.url, gone)
    mayfly.login_file.write_text(kept)

    ended = await mayfly("logout", "--url", gone)

    assert ended.status == 6
    assert "could not be ended there" in ended.stderr
    assert gone not in mayfly.login_file.read_text()


@pytest.mark.F3
async def test_logout_of_a_login_that_has_ended_already_is_done(mayfly: Mayfly) -> None:
    """Logging out twice from two copies of a login is no error."""
    kept = mayfly.login_file.read_text()
    await mayfly("logout")
    mayfly.login_file.write_text(kept)

    ended = await mayfly("logout")

    assert ended.status == 0
    assert mayfly.url not in mayfly.login_file.read_text()


@pytest.mark.F3
async def test_password_is_changed(mayfly: Mayfly, name: str) -> None:
    """The new password logs in, the old one does not, and the login that changed it goes on."""
    new = "battery staple correct"

    changed = await mayfly("password", "--password-stdin", stdin=f"{PASSWORD}\n{new}\n".encode())
    who = await mayfly("whoami")
    old = await mayfly("login", name, "--password-stdin", stdin=PASSWORD.encode())
    login = await mayfly("login", name, "--password-stdin", stdin=new.encode())

    assert [ended.status for ended in (changed, who, old, login)] == [0, 0, 4, 0]


@pytest.mark.F3
@pytest.mark.parametrize("change", [{"fresh_until": 0}, {"access_token": "expired"}], ids=["old", "refused"])
async def test_token_is_renewed_by_itself(mayfly: Mayfly, change: dict[str, object]) -> None:
    """A token that ends soon is renewed before the call, a refused one after it; the next one is kept."""
    mayfly.change_login(**change)
    before = mayfly.login()["tokens"]

    ended = await mayfly("whoami")

    after = mayfly.login()["tokens"]
    assert ended.status == 0, ended.stderr
    assert after["access_token"] != before["access_token"]
    assert after["refresh_token"] != before["refresh_token"]
    assert stat.S_IMODE(mayfly.login_file.stat().st_mode) == 0o600


@pytest.mark.F3
async def test_commands_at_once_do_not_use_a_refresh_token_twice(mayfly: Mayfly) -> None:
    """Of several commands that find a stale token one renews it, all succeed, and the login goes on."""
    mayfly.change_login(fresh_until=0)

    together = await asyncio.gather(*(mayfly("whoami") for _ in range(5)))
    afterwards = await mayfly("whoami")

    assert [ended.status for ended in (*together, afterwards)] == [0] * 6, [ended.stderr for ended in together]


@pytest.mark.F3
async def test_a_login_that_has_ended_is_told_with_the_remedy(mayfly: Mayfly, api: ApiServer) -> None:
    """When neither token counts any more the status is 4, and the sentence says to log in again."""
    async with api.client(mayfly.login()["tokens"]["access_token"]) as client:
        await client.delete("/v1/tokens/current")

    ended = await mayfly("whoami")

    assert ended.status == 4
    assert "Log in again" in ended.stderr


@pytest.mark.F3
async def test_token_of_the_environment_is_used_instead(mayfly: Mayfly, name: str, tmp_path: Path) -> None:
    """MAYFLY_TOKEN needs no login, and is not kept."""
    token = mayfly.login()["tokens"]["access_token"]
    elsewhere = Mayfly(mayfly.url, mayfly.ca_file, tmp_path / "other").with_(MAYFLY_TOKEN=token)

    ended = await elsewhere("whoami")

    assert (ended.status, ended.stdout) == (0, f"{name}\n".encode())
    assert not elsewhere.config_dir.exists()


@pytest.mark.parametrize("token", ["with space", "line\nbreak", "ümlaut"])
async def test_a_token_that_cannot_be_is_not_shown(anybody: Mayfly, token: str) -> None:
    """A token that cannot be sent is refused with a sentence that does not contain it."""
    ended = await anybody.with_(MAYFLY_TOKEN=token)("whoami", "--verbose")

    assert ended.status == 2
    assert token not in ended.stderr


async def test_login_remembers_where_and_whom_to_trust(mayfly: Mayfly, name: str) -> None:
    """After a login with --url and --ca, commands without them go to the same place."""
    plain = mayfly.with_(MAYFLY_URL="", MAYFLY_CA_FILE="")
    given = ("--url", mayfly.url, "--ca", str(mayfly.ca_file))
    mayfly.login_file.unlink()

    login = await plain("login", name, "--password-stdin", *given, stdin=PASSWORD.encode())
    who = await plain("whoami")

    assert (login.status, who.status) == (0, 0), who.stderr


async def test_a_damaged_login_file_is_told(mayfly: Mayfly) -> None:
    """A file that is no JSON ends with status 2 and what to do about it, and is not overwritten."""
    mayfly.login_file.write_text("{")

    ended = await mayfly("whoami")

    assert ended.status == 2
    assert "Remove it, and log in again." in ended.stderr
    assert mayfly.login_file.read_text() == "{"


async def test_without_a_terminal_no_password_is_asked_for(anybody: Mayfly, name: str) -> None:
    """With stdin a pipe and no --password-stdin, `login` ends at once with one sentence, and reads nothing."""
    ended = await anybody("login", name, stdin=PASSWORD.encode())

    assert ended.status == 2
    assert ended.stderr == (
        "mayfly: There is no terminal to ask for the password at. Pipe it in, and add --password-stdin.\n"
    )


@pytest.mark.parametrize("stdin", [b"", b"\n", b"one\ntwo\n", b"\xff\xfe"], ids=["empty", "blank", "two", "binary"])
async def test_a_password_on_stdin_is_one_line_of_text(anybody: Mayfly, name: str, stdin: bytes) -> None:
    """Anything but one line of text is refused before anything is sent."""
    ended = await anybody("login", name, "--password-stdin", stdin=stdin)

    assert ended.status == 2
    assert ended.stderr.count("\n") == 1
