"""
The secrets directory of a deployment: for each role one sub-directory with all that it may know, and no more.

`create` makes what is missing, renews what is about to end and keeps the rest, so it can be run before every start.
It never renames or removes a role's directory, which may be a volume of its own, and the authority's key never leaves
`ca`. What is derived (public keys, copies of the authority's certificate, nats-server's configurations) follows from
what is there: the passwords in the roles' directories and the private token keys. Rows: A1, A3, D4, D7.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from mayfly.domain.ids import new_ulid
from mayfly.ops.certificates import (
    CA_NAME,
    Authority,
    Issued,
    ends_soon,
    is_host,
    issuer_of,
    key_belongs,
    new_token_key,
    public_pem,
    read_pair,
    write_secret,
)
from mayfly.ops.nats_config import ADMIN, API, ROLES, WORKER, Node, node_config, route_password
from mayfly.settings import SettingsError

GATEWAY_HOSTS = ("localhost", "127.0.0.1", "::1")
API_HOSTS = ("api", "api-1", "api-2", "localhost", "127.0.0.1")
NATS_HOSTS = ("nats-1", "nats-2", "nats-3")
LOOPBACK = ("localhost", "127.0.0.1")

NEXT = ".next"  # of a token key that everybody shall know before it signs


class SecretsUnusable(SettingsError):
    """What lies in the secrets directory cannot be used, and only a person can say what was meant."""


@dataclass(frozen=True, slots=True)
class Owners:
    """The user ids of the roles. Each owns its directory; `admin` is whoever runs bootstrap and backup."""

    api: int = 59802
    nats: int = 59801
    gateway: int = 636
    worker: int = 0
    admin: int = 59802


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a deployment needs secrets for."""

    hosts: tuple[str, ...] = GATEWAY_HOSTS  # names by which clients reach the gateway
    api_hosts: tuple[str, ...] = API_HOSTS
    nats: tuple[str, ...] = NATS_HOSTS  # the first label of each names its directory
    nats_monitor: str = "127.0.0.1"
    owners: Owners = field(default_factory=Owners)

    def check(self) -> None:
        """
        Refuse what can be in no certificate.

        Raises: SettingsError.
        """
        given = {"--host": self.hosts, "--api-host": self.api_hosts, "--nats": self.nats}
        for option, names in {**given, "--nats-monitor": (self.nats_monitor,)}.items():
            if bad := [name for name in names if not is_host(name)]:
                raise SettingsError(f"{option}: {bad[0]!r} is neither a host name nor an address, without a port.")
        labels = [name.partition(".")[0] for name in self.nats]
        if len(set(labels)) != len(labels) or set(labels) & {"ca", "public", "gateway", *ROLES}:
            raise SettingsError("--nats: the first label of each name is its directory, and so must be its own.")


class Folder:
    """One directory of one owner: writes what differs, and notes it."""

    def __init__(self, path: Path, owner: int, done: list[str], *, public: bool = False) -> None:
        """Make it if it is not there; *public* files may be read by everybody."""
        self.path = path
        self._owner = owner if os.geteuid() == 0 else None
        self._mode = 0o444 if public else 0o400
        self._done = done
        if path.is_symlink():
            raise SecretsUnusable(f"{path} is a symbolic link: secrets are written into real directories only.")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._set(path, 0o755 if public else 0o700)

    def folder(self, name: str) -> Folder:
        """Return a directory in it, of the same owner."""
        return Folder(self.path / name, os.geteuid() if self._owner is None else self._owner, self._done)

    def read(self, name: str) -> bytes | None:
        """Read a file; None if it is not there."""
        path = self.path / name
        return path.read_bytes() if path.exists() else None

    def put(self, name: str, content: bytes, why: str = "") -> bytes:
        """See to it that a file has this content, owner and mode."""
        path = self.path / name
        if self.read(name) == content:
            self._set(path, self._mode)
            return content
        verb = "changed" if path.exists() else "made"
        write_secret(path, content, mode=self._mode, owner=self._owner)
        self._done.append(f"{verb} {path}{f': the old one {why}' if why else ''}")
        return content

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink()
        self._done.append(f"removed {self.path / name}")

    def names(self, pattern: str) -> list[str]:
        """List the files whose names match, sorted."""
        return sorted(path.name for path in self.path.glob(pattern) if not path.name.startswith("."))

    def _set(self, path: Path, mode: int) -> None:
        found = path.lstat()
        if found.st_mode & 0o7777 != mode:
            path.chmod(mode)
        if self._owner is not None and (found.st_uid, found.st_gid) != (self._owner, self._owner):
            os.chown(path, self._owner, self._owner, follow_symlinks=False)


class SecretsDirectory:
    """The directories of all roles. Only one program works on it at a time: see `locked`."""

    def __init__(self, root: Path, owners: Owners) -> None:
        """Make the directories that are not there."""
        self.done: list[str] = []
        self.root = root
        self._owners = owners
        self.api = Folder(root / "api", owners.api, self.done)
        self.worker = Folder(root / "worker", owners.worker, self.done)
        self.admin = Folder(root / "admin", owners.admin, self.done)
        self.gateway = Folder(root / "gateway", owners.gateway, self.done)
        self.public = Folder(root / "public", os.geteuid(), self.done, public=True)
        self.api_keys = self.api.folder("token-keys")
        self.gateway_keys = self.gateway.folder("token-keys")

    def nats(self, name: str) -> Folder:
        """Return the directory of one nats-server."""
        return Folder(self.root / name, self._owners.nats, self.done)

    def nats_names(self) -> list[str]:
        """List the nats-servers that have a configuration."""
        return sorted(path.parent.name for path in self.root.glob("*/nats.conf"))

    def passwords(self) -> dict[str, str]:
        """See to the passwords of the NATS users; they stand in the directories of their roles."""
        folders = {ADMIN: self.admin, API: self.api, WORKER: self.worker}
        return {
            role: folder.put("nats.password", folder.read("nats.password") or new_secret()).decode()
            for role, folder in folders.items()
        }

    def publish_keys(self) -> None:
        """Give the gateway the public half of every token key, those that do not sign yet included, and no other."""
        keys = {name.removesuffix(NEXT): self.api_keys.read(name) for name in self.api_keys.names(f"*.pem{NEXT}")}
        keys |= {name: self.api_keys.read(name) for name in self.api_keys.names("*.pem")}
        for name, private in keys.items():
            self.gateway_keys.put(name, public_pem(private or b""))
        for name in self.gateway_keys.names("*.pem"):
            if name not in keys:
                self.gateway_keys.remove(name)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep two programs from working on the directory at once; the second waits."""
    (root / "ca").mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root / "ca", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def create(root: Path, wanted: Wanted) -> list[str]:
    """
    Make what is missing, renew what is about to end, keep the rest; return what was done, one sentence each.

    Raises: SettingsError for a name that cannot be; SecretsUnusable, AuthorityUnusable; OSError.
    """
    wanted.check()
    with locked(root):
        directory = SecretsDirectory(root, wanted.owners)
        authority = Authority(root / "ca")
        if authority.ensure():
            directory.done.append(f"made {root / 'ca'}: the internal certificate authority, for ten years")
        (root / "ca").chmod(0o700)
        _fill_api(directory, authority, wanted)
        _fill_gateway(directory, authority, wanted)
        _fill_nats(directory, authority, wanted)
        for folder in (directory.public, directory.worker, directory.admin):
            folder.put("ca.crt", authority.certificate)
        return directory.done


def new_secret() -> bytes:
    """Make a secret of 256 bits, of letters, digits, `-` and `_`."""
    return secrets.token_urlsafe(32).encode()


def _fill_api(directory: SecretsDirectory, authority: Authority, wanted: Wanted) -> None:
    folder = directory.api
    folder.put("ca.crt", authority.certificate)
    renew(folder, authority, "api", wanted.api_hosts)
    if not directory.api_keys.names("*.pem"):
        directory.api_keys.put(f"{new_ulid()}.pem", new_token_key())
    for name in directory.api_keys.names("*.pem*"):
        directory.api_keys.put(name, directory.api_keys.read(name) or b"")
    directory.publish_keys()
    _fill_gateway_secret(directory)


def _fill_gateway_secret(directory: SecretsDirectory) -> None:
    """The API accepts each line of its file, the gateway sends the one line of its own, which is always among them."""
    accepted = (directory.api.read("gateway.secret") or b"").split()
    sent = (directory.gateway.read("gateway.secret") or b"").strip() or next(iter(accepted), new_secret())
    if sent not in accepted:
        accepted.append(sent)
    directory.api.put("gateway.secret", b"\n".join(accepted))
    directory.gateway.put("gateway.secret", sent)


def _fill_gateway(directory: SecretsDirectory, authority: Authority, wanted: Wanted) -> None:
    folder = directory.gateway
    folder.put("ca.crt", authority.certificate)
    own = read_pair(folder.path / "gateway.crt", folder.path / "gateway.key")
    if own is None or issuer_of(own.certificate) == CA_NAME:
        renew(folder, authority, "gateway", wanted.hosts)
    else:
        _keep_own(folder, own, directory.done)


def _keep_own(folder: Folder, own: Issued, done: list[str]) -> None:
    """Keep the certificate that an operator put there, of whatever authority, and say when it is time for another."""
    path = folder.path / "gateway.crt"
    if not key_belongs(own):
        raise SecretsUnusable(f"{folder.path / 'gateway.key'} is not the private key, in PEM, of {path}.")
    folder.put("gateway.crt", own.certificate)
    folder.put("gateway.key", own.key)
    certificate = x509.load_pem_x509_certificate(own.certificate)
    if ends_soon(certificate):
        done.append(f"NOTE {path} is not of this authority and is kept; it ends on {certificate.not_valid_after_utc}")


def _fill_nats(directory: SecretsDirectory, authority: Authority, wanted: Wanted) -> None:
    passwords = directory.passwords()
    route = _present_route_password(directory) or new_secret().decode()
    for host in wanted.nats:
        peers = tuple(peer for peer in wanted.nats if peer != host)
        node = Node(host, peers, monitor=wanted.nats_monitor)
        folder = directory.nats(node.name)
        folder.put("ca.crt", authority.certificate)
        renew(folder, authority, "nats", tuple(dict.fromkeys((node.name, host, *LOOPBACK))), peer=True)
        folder.put("nats.conf", node_config(node, passwords=passwords, route_password=route).encode())


def _present_route_password(directory: SecretsDirectory) -> str | None:
    configurations = [(directory.root / name / "nats.conf").read_text() for name in directory.nats_names()]
    try:
        return next(filter(None, map(route_password, configurations)), None)
    except (ValueError, KeyError, TypeError) as error:
        raise SecretsUnusable(
            f"A nats.conf below {directory.root} is not one that this program wrote ({error}): remove it."
        ) from error


def renew(folder: Folder, authority: Authority, name: str, hosts: tuple[str, ...], *, peer: bool = False) -> None:
    """See to `<name>.crt` and `<name>.key`, good for *hosts*. A crash between the two is seen at the next run."""
    present = read_pair(folder.path / f"{name}.crt", folder.path / f"{name}.key")
    why = authority.fault(present, hosts) if present else ""
    issued = present if present and why is None else authority.issue(hosts, peer=peer)
    folder.put(f"{name}.key", issued.key)
    folder.put(f"{name}.crt", issued.certificate, why or "")
