"""
Changing the secrets of a running deployment, in steps that refuse nobody.

Each step changes files only, and returns what has to be restarted before the next one. A key that signs is known to
everybody who verifies before it signs; a secret that is sent is accepted by everybody before it is sent. The steps are
told by what lies in the directory, so a rotation that was interrupted goes on where it stopped. Rows: A1, D7.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mayfly.domain.ids import new_ulid
from mayfly.ops.certificates import CA_NAME, Authority, Issued, issuer_of, new_token_key
from mayfly.ops.folder import Folder, SecretsUnusable
from mayfly.ops.nats_config import with_passwords
from mayfly.ops.sealing_keys import new_sealing_key, newest_kid
from mayfly.ops.secrets import NEXT, Owners, SecretsDirectory, locked, new_secret
from mayfly.ops.secrets_names import label, names_before, names_of_server

KEYS_AT_MOST = 2


def rotate(root: Path, what: str, owners: Owners) -> list[str]:
    """
    Take the next step of changing *what*; return what was done and what to do next, one sentence each.

    Raises: SecretsUnusable when the directory was not made by `create`; AuthorityUnusable; OSError.
    """
    owners.check()
    if not (root / "ca" / "ca.crt").exists():
        raise SecretsUnusable(f"{root} is not a secrets directory: `mayfly secrets create {root}` makes one.")
    with locked(root, within_s=0):  # who waited would take the next step right after the one before
        Authority(root / "ca").check()
        directory = SecretsDirectory(root, owners)
        directory.check()
        directory.done.clear()
        following = STEPS[what](directory)
        return [*directory.done, following]


def _token_key(directory: SecretsDirectory) -> str:
    keys = directory.api_keys
    if waiting := keys.names(f"*.pem{NEXT}"):
        for name in waiting:
            keys.put(name.removesuffix(NEXT), keys.read(name) or b"")
            keys.remove(name)
        directory.publish_keys()
        return (
            "NEXT restart the API servers one after the other: from then on the new key signs. Tokens of the old one "
            "stay good. Rotate again no sooner than the longest login lives (30 days by default)."
        )
    newest = keys.names("*.pem")[-1:]
    kid = new_ulid()
    if newest and newest[0] >= f"{kid}.pem":  # somebody chose names
        kid = f"{newest[0].removesuffix('.pem')}-{kid}"
    for name in keys.names("*.pem")[: 1 - KEYS_AT_MOST]:
        keys.remove(name)
    keys.put(f"{kid}.pem{NEXT}", new_token_key())
    directory.publish_keys()
    return (
        "NEXT render the gateway's files again, and restart the API servers one after the other: everybody then knows "
        "the new key, which does not sign yet. Then run this command again. A key that was removed signed out whoever "
        "has not been here since it was replaced."
    )


def _sealing_key(directory: SecretsDirectory) -> str:
    """Old private keys stay: what was sealed with them is opened with them, until somebody sets it again."""
    keys = directory.sealing_keys
    if not directory.public_sealing_keys.names("*.pem"):  # one that was made now would wait for ever
        raise SecretsUnusable(f"{directory.root}: no sealing key is in use: run `mayfly secrets create` first.")
    if directory.waiting_sealing_key():
        directory.publish_sealing_keys()
        return (
            "NEXT restart the API servers one after the other: from then on the new key seals. Then `mayfly secrets "
            "reseal` seals anew what is sealed with the old one, and says when that can be removed."
        )
    newest, kid = newest_kid(keys.names("*.pem")), new_ulid()
    if newest is not None and newest >= kid:  # somebody chose names
        kid = f"{newest}-{kid}"
    keys.put(f"{kid}.pem", new_sealing_key())
    return (
        "NEXT restart the workers one after the other: they then can open what the new key seals, which nobody seals "
        "with yet. Then run this command again."
    )


def _gateway_secret(directory: SecretsDirectory) -> str:
    accepted = (directory.api.read("gateway.secret") or b"").split()
    sent = (directory.gateway.read("gateway.secret") or b"").strip()
    if not accepted or not sent:
        raise SecretsUnusable(
            f"{directory.root}: the gateway's secret is missing in api/ or gateway/: run `mayfly secrets create` first."
        )
    if accepted == [sent]:
        directory.api.put("gateway.secret", b"\n".join([sent, new_secret()]))
        return "NEXT restart the API servers one after the other: they then accept both. Then run this command again."
    if accepted[-1:] != [sent]:
        directory.gateway.put("gateway.secret", accepted[-1])
        return "NEXT render the gateway's files again: it then sends the new one. Then run this command again."
    directory.api.put("gateway.secret", sent)
    return (
        "NEXT restart the API servers one after the other: they then accept the new one only. That was the last step."
    )


def _nats_passwords(directory: SecretsDirectory) -> str:
    for folder in (directory.admin, directory.api, directory.worker):
        folder.put("nats.password", new_secret())
    passwords = directory.passwords()
    for name in directory.nats_names():
        folder = directory.nats(name)
        folder.put("nats.conf", with_passwords((folder.read("nats.conf") or b"").decode(), passwords).encode())
    return (
        "NEXT restart the nats-servers one after the other, each when the one before is healthy again. Whoever is "
        "connected comes back with the new password by itself. Start nothing else anew until all three are done."
    )


def _certificates(directory: SecretsDirectory) -> str:
    """For the names that `create` was given; those in a role's directory could be of its own choice."""
    authority, names = Authority(directory.root / "ca"), names_before(directory.ca)
    if names is None:
        raise SecretsUnusable(
            f"{directory.ca.path} does not say for which names: run `mayfly secrets create` with all of them first."
        )
    _put(directory.api, "api", authority.issue(names.api_hosts))
    for host in names.nats:
        folder = directory.nats(label(host))
        _put(folder, "nats", authority.issue(names_of_server(host, folder, authority), peer=True))
    if issuer_of(directory.gateway.read("gateway.crt") or b"") == CA_NAME:
        _put(directory.gateway, "gateway", authority.issue(names.hosts))
    return (
        "NEXT render the gateway's files again, and restart the nats-servers and the API servers, one after the other. "
        "The authority is the same, so everybody trusts old and new."
    )


def _put(folder: Folder, name: str, issued: Issued) -> None:
    folder.put(f"{name}.key", issued.key)
    folder.put(f"{name}.crt", issued.certificate)


STEPS: dict[str, Callable[[SecretsDirectory], str]] = {
    "token-key": _token_key,
    "nats-passwords": _nats_passwords,
    "gateway-secret": _gateway_secret,
    "certificates": _certificates,
    "sealing-key": _sealing_key,
}
