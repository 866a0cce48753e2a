"""Who may call: registration, login, tokens, sessions, and all the ways in which a token can be wrong."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mayfly.api.auth import PUBLIC
from tests.integration.api.conftest import Someone
from tests.support.answering import AnsweringWorker
from tests.support.api import PASSWORD, ApiServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

ME, TOKENS = "/v1/users/me", "/v1/tokens"


async def log_in(client: httpx.AsyncClient, username: str, password: str) -> httpx.Response:
    """Log in."""
    return await client.post(TOKENS, data={"grant_type": "password", "username": username, "password": password})


async def refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    """Exchange a refresh token."""
    return await client.post(TOKENS, data={"grant_type": "refresh_token", "refresh_token": token})


def bearer(token: str) -> dict[str, str]:
    """A header."""
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.F2
async def test_anybody_registers_and_sees_himself(anybody: httpx.AsyncClient, api: ApiServer) -> None:
    """Registration answers 201 with the account and its address, and the account can log in."""
    answer = await anybody.post("/v1/users", json={"username": "first-user", "password": PASSWORD})
    assert (answer.status_code, answer.headers["Location"]) == (201, ME)
    assert answer.json().keys() == {"id", "username", "role", "created_at"}
    tokens = (await log_in(anybody, "first-user", PASSWORD)).json()
    me = await anybody.get(ME, headers=bearer(tokens["access_token"]))
    assert me.json() == answer.json()


@pytest.mark.F2
async def test_a_name_is_taken_once(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """The second registration of a name is 409 and changes nothing, also when both come at once."""
    taken = await anybody.post("/v1/users", json={"username": ann.username, "password": "another password"})
    assert (taken.status_code, taken.json()["code"]) == (409, "already-exists")
    assert (await log_in(anybody, ann.username, PASSWORD)).status_code == 200
    racing = {"username": f"{ann.username[:20]}-r", "password": PASSWORD}
    answers = await asyncio.gather(*(anybody.post("/v1/users", json=racing) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]


@pytest.mark.F2
async def test_registration_can_be_closed(nats_url: str, tmp_path: Path) -> None:
    """With the setting `closed`, registering is 403 and says what the operator can do."""
    async with ApiServer(nats_url, tmp_path, registration="closed") as closed, closed.client() as client:
        answer = await client.post("/v1/users", json={"username": "late-comer", "password": PASSWORD})
    assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed")
    assert "MAYFLY_REGISTRATION" in answer.json()["detail"]


@pytest.mark.F3
async def test_every_route_but_the_public_ones_needs_a_token(anybody: httpx.AsyncClient) -> None:
    """Walked from the OpenAPI: without a token, each operation answers 401 with a challenge, or is a public one."""
    described = (await anybody.get("/openapi.json")).json()
    walked, open_ones = 0, set()
    for path, operations in described["paths"].items():
        for method in operations:
            url = path.replace("{name}", "echo").replace("{activation_id}", f"{'a' * 24}-{'0' * 26}")
            answer = await anybody.request(method.upper(), url)
            walked += 1
            if answer.status_code == 401 and answer.headers["WWW-Authenticate"] == 'Bearer realm="mayfly"':
                assert answer.json()["code"] == "not-authenticated"
                assert operations[method]["security"] == [{"token": []}]
            else:
                open_ones.add((method.upper(), path))
    # login without a form is 415, registration without a body too: they answer without a token
    assert open_ones == PUBLIC - {("GET", "/openapi.json"), ("GET", "/docs")}
    assert walked >= 19


def _forge(keys_dir: Path, access_token: str, **changes: Any) -> str:
    """Sign with the server's own key, so that only what is changed is wrong; None removes a claim."""
    claims = jwt.decode(access_token, options={"verify_signature": False})
    header = {"kid": claims["kid"]} | changes.pop("header", {})
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    key = next(keys_dir.glob("*.pem")).read_bytes()
    return jwt.encode(claims, key, algorithm="ES256", headers={k: v for k, v in header.items() if v is not None})


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _none_alg(keys_dir: Path, token: str) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    header = {"alg": "none", "typ": "JWT", "kid": claims["kid"]}
    return f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}."


def _hs256_with_public_key(keys_dir: Path, token: str) -> str:
    """The classic confusion: the public key, which everybody may know, as an HMAC secret."""
    path = next(keys_dir.glob("*.pem"))
    private = serialization.load_pem_private_key(path.read_bytes(), None)
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(token, options={"verify_signature": False})
    head = _b64(json.dumps({"alg": "HS256", "typ": "JWT", "kid": path.stem}).encode())
    signed = f"{head}.{_b64(json.dumps(claims).encode())}"
    return f"{signed}.{_b64(hmac.new(pem, signed.encode(), hashlib.sha256).digest())}"


def _foreign_key(keys_dir: Path, token: str) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    key = ec.generate_private_key(ec.SECP256R1())
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": claims["kid"]})


def _tampered(keys_dir: Path, token: str) -> str:
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return f"{head}.{_b64(json.dumps(claims | {'sub': 'b' * 24}).encode())}.{signature}"


Forgery = Callable[[Path, str], str]
HOUR = 3600

FORGERIES: dict[str, Forgery] = {
    "expired": lambda keys, token: _forge(keys, token, exp=int(time.time()) - 70),
    "expired-long": lambda keys, token: _forge(keys, token, exp=1),
    "from-the-future": lambda keys, token: _forge(keys, token, iat=int(time.time()) + HOUR),
    "not-yet": lambda keys, token: _forge(keys, token, nbf=int(time.time()) + HOUR),
    "wrong-audience": lambda keys, token: _forge(keys, token, aud="another-api"),
    "audience-list": lambda keys, token: _forge(keys, token, aud=["mayfly-api", "other"]),
    "refresh-audience": lambda keys, token: _forge(keys, token, aud="mayfly-api/refresh"),
    "wrong-issuer": lambda keys, token: _forge(keys, token, iss="somebody"),
    "no-kid-header": lambda keys, token: _forge(keys, token, header={"kid": None}),
    "unknown-kid": lambda keys, token: _forge(keys, token, header={"kid": "unknown"}),
    "kid-path": lambda keys, token: _forge(keys, token, header={"kid": "../../etc/passwd"}),
    "kid-claim-missing": lambda keys, token: _forge(keys, token, kid=None),
    "kid-claim-differs": lambda keys, token: _forge(keys, token, kid="other"),
    "no-subject": lambda keys, token: _forge(keys, token, sub=None),
    "subject-wildcard": lambda keys, token: _forge(keys, token, sub=">"),
    "subject-number": lambda keys, token: _forge(keys, token, sub=["a" * 24]),
    "no-session": lambda keys, token: _forge(keys, token, sid=None),
    "session-unknown": lambda keys, token: _forge(keys, token, sid="c" * 24),
    "session-wildcard": lambda keys, token: _forge(keys, token, sid="*"),
    "session-of-another": lambda keys, token: _forge(keys, token, sub="d" * 24),
    "no-expiry": lambda keys, token: _forge(keys, token, exp=None),
    "expiry-text": lambda keys, token: _forge(keys, token, exp="tomorrow"),
    "no-jti": lambda keys, token: _forge(keys, token, jti=None),
    "none-algorithm": _none_alg,
    "hs256-with-public-key": _hs256_with_public_key,
    "foreign-key": _foreign_key,
    "tampered": _tampered,
    "no-signature": lambda _, token: token.rpartition(".")[0] + ".",
    "cut": lambda _, token: token[:-6],
    "two-parts": lambda _, token: ".".join(token.split(".")[:2]),
    "nonsense": lambda _, __: "nonsense",
    "very-long": lambda _, token: token + "A" * 5000,
    "deep-json": lambda _, __: f"{_b64(b'[' * 1400)}.e30.x",
}


@pytest.mark.F3
@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
async def test_wrong_token_is_refused(
    resident: Someone, anybody: httpx.AsyncClient, keys_dir: Path, worker: AnsweringWorker, forgery: Forgery
) -> None:
    """No token but a whole, current one of ours opens anything; the challenge says that it was the token."""
    token = forgery(keys_dir, resident.access_token)
    claimed = len(worker.claimed)
    for method, path in (("GET", ME), ("POST", "/v1/functions/echo/activations")):
        answer = await anybody.request(method, path, headers=bearer(token))
        assert (answer.status_code, answer.json()["code"]) == (401, "not-authenticated"), answer.text
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mayfly", error="invalid_token"'
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert token not in answer.text
    assert len(worker.claimed) == claimed
    assert (await resident.client.get(ME)).status_code == 200


@pytest.mark.F3
@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "bearer", "Token abc", "Bearer\tabc"], ids=repr)
async def test_header_without_a_bearer_token_is_refused(anybody: httpx.AsyncClient, header: str) -> None:
    """Anything but `Bearer TOKEN` in Authorization is 401."""
    assert (await anybody.get(ME, headers={"Authorization": header})).status_code == 401


@pytest.mark.F3
async def test_token_counts_only_in_its_header(resident: Someone, anybody: httpx.AsyncClient) -> None:
    """A token in the query, in a cookie or in a gateway's headers is no token."""
    token = resident.access_token
    assert (await anybody.get(ME, params={"access_token": token, "jwt": token})).status_code == 401
    assert (await anybody.get(ME, headers={"Cookie": f"jwt={token}; access_token={token}"})).status_code == 401
    forged = {"X-Consumer-Username": "mayfly-user", "X-Mayfly-User": "x", "X-Userinfo": "e30=", "X-Access-Token": token}
    assert (await anybody.get(ME, headers=forged)).status_code == 401


@pytest.mark.F3
async def test_refresh_token_is_no_access_token(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """And the other way round."""
    assert (await anybody.get(ME, headers=bearer(ann.tokens["refresh_token"]))).status_code == 401
    assert (await refresh(anybody, ann.access_token)).status_code == 401


@pytest.mark.F3
async def test_login_answers_as_oauth_clients_expect(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """The token response has RFC 6749's members and is not cached; a wrong password has `error: invalid_grant`."""
    good = await log_in(anybody, ann.username, PASSWORD)
    assert good.headers["Cache-Control"] == "no-store"
    assert good.json().keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (good.json()["token_type"], good.json()["expires_in"]) == ("Bearer", 900)
    bad = await log_in(anybody, ann.username, "not the password")
    assert bad.status_code == 401
    assert bad.json()["error"] == "invalid_grant"
    assert bad.headers["Cache-Control"] == "no-store"
    unsupported = await anybody.post(TOKENS, data={"grant_type": "implicit"})
    assert (unsupported.status_code, unsupported.json()["error"]) == (400, "unsupported_grant_type")
    missing = await anybody.post(TOKENS, data={})
    assert missing.json()["error"] == "invalid_request"


@pytest.mark.F3
async def test_access_token_has_the_claims_the_gateway_needs(ann: Someone, keys_dir: Path) -> None:
    """ES256 with `kid` in header and claims, iss, aud, sub, sid, exp 15 minutes on, iat and jti."""
    header = jwt.get_unverified_header(ann.access_token)
    claims = jwt.decode(ann.access_token, options={"verify_signature": False})
    kid = next(keys_dir.glob("*.pem")).stem
    assert header == {"alg": "ES256", "kid": kid, "typ": "JWT"}
    assert claims["kid"] == kid
    assert (claims["iss"], claims["aud"]) == ("mayfly", "mayfly-api")
    assert claims["exp"] - claims["iat"] == 900
    assert claims.keys() == {"iss", "aud", "sub", "sid", "iat", "exp", "jti", "kid"}


@pytest.mark.F3
async def test_unknown_user_and_wrong_password_look_and_time_alike(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """Neither the answer nor its time tells whether there is such a user."""
    times: dict[str, list[float]] = {ann.username: [], "nobody-by-this-name": []}
    bodies = []
    for _ in range(7):
        for name, taken in times.items():
            began = time.perf_counter()
            answer = await log_in(anybody, name, "not the password")
            taken.append(time.perf_counter() - began)
            bodies.append({**answer.json(), "request_id": ""})
    known, unknown = map(min, times.values())  # other load can only add to it
    assert all(body == bodies[0] for body in bodies)
    assert abs(known - unknown) < 0.5 * max(known, unknown)


@pytest.mark.F3
async def test_logout_counts_at_once(ann: Someone, anybody: httpx.AsyncClient, worker: AnsweringWorker) -> None:
    """After DELETE /v1/tokens/current neither the access nor the refresh token opens anything, calls included."""
    await ann.has()
    assert (await ann.client.delete("/v1/tokens/current")).status_code == 204
    for method, path in (("GET", ME), ("POST", "/v1/functions/echo/activations"), ("DELETE", "/v1/tokens/current")):
        assert (await ann.client.request(method, path)).status_code == 401
    assert (await refresh(anybody, ann.tokens["refresh_token"])).status_code == 401


@pytest.mark.F3
async def test_logout_ends_one_login_only(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """Another login of the same user goes on."""
    other = (await log_in(anybody, ann.username, PASSWORD)).json()
    await ann.client.delete("/v1/tokens/current")
    assert (await anybody.get(ME, headers=bearer(other["access_token"]))).status_code == 200


@pytest.mark.F3
async def test_refresh_rotates_and_reuse_ends_the_login(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """Each refresh token is good once; showing an old one ends the login, the newest tokens included."""
    second = (await refresh(anybody, ann.tokens["refresh_token"])).json()
    third = (await refresh(anybody, second["refresh_token"])).json()
    assert (await anybody.get(ME, headers=bearer(third["access_token"]))).status_code == 200
    reused = await refresh(anybody, ann.tokens["refresh_token"])
    assert (reused.status_code, reused.json()["error"]) == (401, "invalid_grant")
    assert (await anybody.get(ME, headers=bearer(third["access_token"]))).status_code == 401
    assert (await refresh(anybody, third["refresh_token"])).status_code == 401


@pytest.mark.F3
async def test_of_two_refreshes_at_once_one_wins(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """Racing refreshes with one token give one pair of tokens, never two."""
    answers = await asyncio.gather(*(refresh(anybody, ann.tokens["refresh_token"]) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]


@pytest.mark.F3
async def test_made_up_refresh_token_ends_nobodys_login(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """Only a token that we did issue counts as reuse: a stranger cannot log others out."""
    claims = jwt.decode(ann.tokens["refresh_token"], options={"verify_signature": False})
    key = ec.generate_private_key(ec.SECP256R1())
    forged = jwt.encode(claims, key, algorithm="ES256", headers={"kid": claims["kid"]})
    assert (await refresh(anybody, forged)).status_code == 401
    assert (await ann.client.get(ME)).status_code == 200


@pytest.mark.F3
async def test_new_password_ends_all_other_logins(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """The old password and every other login are over; the login that changed it goes on."""
    other = (await log_in(anybody, ann.username, PASSWORD)).json()
    change = {"current_password": PASSWORD, "new_password": "a whole new password"}
    assert (await ann.client.put("/v1/users/me/password", json=change)).status_code == 204
    assert (await ann.client.get(ME)).status_code == 200
    assert (await anybody.get(ME, headers=bearer(other["access_token"]))).status_code == 401
    assert (await log_in(anybody, ann.username, PASSWORD)).status_code == 401
    assert (await log_in(anybody, ann.username, "a whole new password")).status_code == 200


@pytest.mark.F3
async def test_same_characters_typed_otherwise_are_the_same_password(anybody: httpx.AsyncClient) -> None:
    """Passwords are compared in Unicode's form NFC, and may be anything but NUL."""
    composed, decomposed = "caf\u00e9 \U0001f600 pass", "cafe\u0301 \U0001f600 pass"
    new = {"username": "accented", "password": composed}
    assert (await anybody.post("/v1/users", json=new)).status_code == 201
    assert (await log_in(anybody, "accented", decomposed)).status_code == 200


@pytest.mark.F2
async def test_deleted_account_is_gone_with_all_it_had(
    ann: Someone, anybody: httpx.AsyncClient, worker: AnsweringWorker
) -> None:
    """DELETE /v1/users/me ends token, login and functions; the name is free, and its new owner sees nothing of it."""
    await ann.has()
    await ann.client.post("/v1/functions/echo/activations")
    assert (await ann.client.delete(ME)).status_code == 204
    assert (await ann.client.get(ME)).status_code == 401
    assert (await ann.client.post("/v1/functions/echo/activations")).status_code == 401
    assert (await log_in(anybody, ann.username, PASSWORD)).status_code == 401
    assert (await refresh(anybody, ann.tokens["refresh_token"])).status_code == 401
    again = {"username": ann.username, "password": PASSWORD}
    assert (await anybody.post("/v1/users", json=again)).status_code == 201
    tokens = (await log_in(anybody, ann.username, PASSWORD)).json()
    headers = bearer(tokens["access_token"])
    assert (await anybody.get("/v1/functions", headers=headers)).json()["functions"] == []
    assert (await anybody.get("/v1/activations", headers=headers)).json()["activations"] == []
    assert (await ann.client.get(ME)).status_code == 401, "the old token does not become the new owner's"


@pytest.mark.F3
async def test_flood_of_logins_is_bounded_and_calls_go_on(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """Beyond the line logins are 429 with Retry-After; a call that needs no hash is answered meanwhile."""
    flood = [asyncio.create_task(log_in(anybody, ann.username, "not the password")) for _ in range(60)]
    await asyncio.sleep(0.1)
    assert (await ann.client.get(ME)).status_code == 200
    meanwhile = [login for login in flood if not login.done()]
    answers = await asyncio.gather(*flood)
    hashed_later = sum(login.result().status_code == 401 for login in meanwhile)
    assert hashed_later > 5, "it waited for the hashes"  # 17 have a place in the line for each thread
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.status_code for answer in answers} == {401, 429}
    assert refused[0].json()["code"] == "too-many-attempts"
    assert int(refused[0].headers["Retry-After"]) >= 1
