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
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from cryptography import x509

from mayfly.domain.ids import new_ulid
from mayfly.ops.certificates import (
    CA_NAME,
    SERVER_DAYS,
    Authority,
    Issued,
    ends_soon,
    issuer_of,
    key_belongs,
    new_token_key,
    public_pem,
    token_key_fault,
)
from mayfly.ops.folder import Folder, SecretsUnusable
from mayfly.ops.nats_config import ADMIN, API, ROLES, WORKER, Node, node_config, route_password, with_passwords
from mayfly.ops.sealing_keys import new_sealing_key, newest_kid, public_name, sealing_key_fault
from mayfly.ops.secrets_names import NO_SERVERS, Names, keep_names, label, names_before, names_of_server, read_pair
from mayfly.settings import SettingsError

NEXT = ".next"  # of a token key that everybody shall know before it signs

UID_MAX = 2**32 - 2  # one more is "leave it as it is"
PASSWORD = re.compile(rb"[!-~]{16,512}")  # of visible characters: it goes into nats.conf and onto one line of a file
GATEWAY_SECRET = re.compile(rb"[!-~]{32,512}")  # in a header
ACCEPTED_AT_MOST = 8

LOCK_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Owners:
    """The user ids of the roles. Each owns its directory; `admin` is whoever runs bootstrap and backup."""

    api: int = 59802
    nats: int = 59801
    gateway: int = 636
    worker: int = 0
    admin: int = 59802

    def check(self) -> None:
        """
        Refuse what is no user id.

        Raises: SettingsError.
        """
        for role in fields(self):
            if not 0 <= (uid := getattr(self, role.name)) <= UID_MAX:
                raise SettingsError(f"--{role.name}-uid: {uid} is no user id: give one from 0 to {UID_MAX}.")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a deployment needs secrets for. Names that are not given stay what they were."""

    hosts: tuple[str, ...] = ()  # names by which clients reach the gateway
    api_hosts: tuple[str, ...] = ()
    nats: tuple[str, ...] = ()  # the first label of each names its directory
    nats_monitor: str | None = None
    nats_store_gib: int | None = None
    owners: Owners = field(default_factory=Owners)

    def over(self, before: Names) -> Names:
        """
        Say what the names are, given those before.

        Raises: SettingsError for a name, or a user id, that cannot be.
        """
        self.owners.check()
        names = Names(
            self.hosts or before.hosts,
            self.api_hosts or before.api_hosts,
            self.nats or before.nats,
            before.nats_monitor if self.nats_monitor is None else self.nats_monitor,
            before.nats_store_gib if self.nats_store_gib is None else self.nats_store_gib,
        )
        names.check()
        return names


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
        self.ca = Folder(root / "ca", os.geteuid(), self.done)
        self.api_keys = self.api.folder("token-keys")
        self.gateway_keys = self.gateway.folder("token-keys")
        self.sealing_keys = self.worker.folder("sealing-keys")
        self.public_sealing_keys = self.api.folder("sealing-keys")

    def nats(self, name: str) -> Folder:
        """Return the directory of one nats-server."""
        return Folder(self.root / name, self._owners.nats, self.done)

    def nats_names(self) -> list[str]:
        """List the nats-servers that have a configuration; in another role's directory it is none of ours."""
        return sorted({path.parent.name for path in self.root.glob("*/nats.conf")} - NO_SERVERS)

    def check(self) -> None:
        """
        Read all that others are made from, before anything is made from it.

        Raises: SecretsUnusable, naming the file and what to do.
        """
        for folder in (self.admin, self.api, self.worker):
            _check_lines(folder, "nats.password", PASSWORD, at_most=1)
        _check_lines(self.api, "gateway.secret", GATEWAY_SECRET, at_most=ACCEPTED_AT_MOST)
        _check_lines(self.gateway, "gateway.secret", GATEWAY_SECRET, at_most=1)
        for name in self.api_keys.names("*.pem*"):
            if why := token_key_fault(self.api_keys.read(name) or b""):
                raise SecretsUnusable(f"{self.api_keys.path / name} {why}: put an ES256 key there, or remove it.")
        for name in self.sealing_keys.names("*.pem"):
            if why := sealing_key_fault(self.sealing_keys.read(name) or b""):
                raise SecretsUnusable(
                    f"{self.sealing_keys.path / name} {why}. Bring it back from where you keep a copy: without it what "
                    "was sealed with it is lost."
                )
        for name in self.nats_names():
            _check_configuration(self.nats(name))

    def passwords(self) -> dict[str, str]:
        """See to the passwords of the NATS users; they stand in the directories of their roles."""
        folders = {ADMIN: self.admin, API: self.api, WORKER: self.worker}
        return {
            role: folder.put("nats.password", (folder.read("nats.password") or b"").strip() or new_secret()).decode()
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

    def waiting_sealing_key(self) -> str | None:
        """Name the key that workers get to know before API servers seal with it, if one is being rotated in."""
        private = self.sealing_keys.names("*.pem")
        published = set(self.public_sealing_keys.names("*.pem")) & set(map(public_name, private))
        newest = f"{newest_kid(private)}.pem"
        return newest if published and public_name(newest) not in published else None

    def publish_sealing_keys(self, *, but: str | None = None) -> None:
        """Give API servers the public half of every sealing key but one, which workers shall know first."""
        names = [name for name in self.sealing_keys.names("*.pem") if name != but]
        for name in names:
            self.public_sealing_keys.put(public_name(name), public_pem(self.sealing_keys.read(name) or b""))
        for name in self.public_sealing_keys.names("*.pem"):
            if name not in map(public_name, names):
                self.public_sealing_keys.remove(name)


def _check_lines(folder: Folder, name: str, form: re.Pattern[bytes], *, at_most: int) -> None:
    lines = (folder.read(name) or b"").splitlines()
    if len(lines) > at_most or not all(map(form.fullmatch, lines)):
        allowed = form.pattern.decode().removeprefix("[!-~]").strip("{}").replace(",", " to ")
        raise SecretsUnusable(
            f"{folder.path / name} is not {'one line' if at_most == 1 else f'{at_most} lines'} of {allowed} visible "
            "ASCII characters: correct it, or remove it, and `mayfly secrets create` makes another."
        )


def _check_configuration(folder: Folder) -> None:
    try:
        config = (folder.read("nats.conf") or b"").decode()
        route_password(config)
        with_passwords(config, dict.fromkeys(ROLES, ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SecretsUnusable(
            f"{folder.path}/nats.conf is not one that this program wrote: remove it, and `mayfly secrets create` makes "
            "it anew."
        ) from None


@contextmanager
def locked(root: Path, *, within_s: float = LOCK_WITHIN_S) -> Iterator[None]:
    """
    Keep two programs from working on the directory at once; the second waits *within_s*.

    Raises: SecretsUnusable when the first is not done by then.
    """
    if not root.exists():
        root.mkdir(parents=True)
        root.chmod(0o755)  # also where new directories are everybody's to write to
    (root / "ca").mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(root / "ca", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, root, time.monotonic() + within_s)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, root: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise SecretsUnusable(f"Another program is at work on {root}: see what it says, then go on.") from None
            time.sleep(0.05)
        else:
            return


def create(root: Path, wanted: Wanted) -> list[str]:
    """
    Make what is missing, renew what is about to end, keep the rest; return what was done, one sentence each.

    What is there is read before anything is written.

    Raises: SettingsError for a name that cannot be; SecretsUnusable, AuthorityUnusable; OSError.
    """
    _refuse_another_directory(root, wanted.over(Names()))
    with locked(root):
        authority = Authority(root / "ca")
        is_new = authority.ensure()
        authority.check()
        directory = SecretsDirectory(root, wanted.owners)
        directory.check()
        names = wanted.over(names_before(directory.ca) or Names())
        if is_new:
            directory.done.append(f"made {root / 'ca'}: the internal certificate authority, for ten years")
        keep_names(directory.ca, names)
        directory.done.extend(_kept(names, wanted))
        _fill_api(directory, authority, names)
        _fill_gateway(directory, authority, names)
        _fill_nats(directory, authority, names)
        for folder in (directory.public, directory.worker, directory.admin):
            folder.put("ca.crt", authority.certificate)
        if authority.ends_within_a_certificate():
            directory.done.append(f"NOTE the authority in {root / 'ca'} ends within {SERVER_DAYS} days: plan another")
        return directory.done


def _kept(names: Names, wanted: Wanted) -> Iterator[str]:
    """Say which names are not those of a new directory, though none was given: they were given before."""
    usual, given = Names().as_options(), wanted.over(Names()).as_options()
    for option, kept in names.as_options().items():
        if kept != usual[option] == given[option]:
            yield f"kept {' '.join(f'{option} {name}' for name in kept)}: none was given"


def _refuse_another_directory(root: Path, names: Names) -> None:
    """
    A directory of something else may have an `api` or a `public` of its own, which would be given away.

    Raises: SecretsUnusable.
    """
    if not root.is_dir() or (root / "ca").exists():
        return
    known = NO_SERVERS | {label(host) for host in names.nats} | {"lost+found"}
    foreign = sorted(path.name for path in root.iterdir() if path.name not in known and not path.name.startswith("."))
    if foreign:
        raise SecretsUnusable(f"{root} has other things in it, such as {foreign[0]!r}: name a directory of its own.")


def new_secret() -> bytes:
    """Make a secret of 256 bits, of letters, digits, `-` and `_`."""
    return secrets.token_urlsafe(32).encode()


def _fill_api(directory: SecretsDirectory, authority: Authority, names: Names) -> None:
    folder = directory.api
    folder.put("ca.crt", authority.certificate)
    renew(folder, authority, "api", names.api_hosts)
    if not directory.api_keys.names("*.pem"):
        directory.api_keys.put(f"{new_ulid()}.pem", new_token_key())
    for name in directory.api_keys.names("*.pem*"):
        directory.api_keys.put(name, directory.api_keys.read(name) or b"")
    directory.publish_keys()
    _fill_sealing_keys(directory)
    _fill_gateway_secret(directory)


def _fill_sealing_keys(directory: SecretsDirectory) -> None:
    """See to one key, and leave one that is being rotated in where it is: private only, until workers know it."""
    keys = directory.sealing_keys
    if not keys.names("*.pem"):
        keys.put(f"{new_ulid()}.pem", new_sealing_key())
    for name in keys.names("*.pem"):
        keys.put(name, keys.read(name) or b"")
    directory.publish_sealing_keys(but=directory.waiting_sealing_key())


def _fill_gateway_secret(directory: SecretsDirectory) -> None:
    """The API accepts each line of its file, the gateway sends the one line of its own, which is always among them."""
    accepted = (directory.api.read("gateway.secret") or b"").split()
    sent = (directory.gateway.read("gateway.secret") or b"").strip() or next(iter(accepted), new_secret())
    if sent not in accepted:
        accepted.append(sent)
    directory.api.put("gateway.secret", b"\n".join(accepted))
    directory.gateway.put("gateway.secret", sent)


def _fill_gateway(directory: SecretsDirectory, authority: Authority, names: Names) -> None:
    folder = directory.gateway
    folder.put("ca.crt", authority.certificate)
    own = read_pair(folder, "gateway")
    if own is None or issuer_of(own.certificate) == CA_NAME:
        renew(folder, authority, "gateway", names.hosts)
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


def _fill_nats(directory: SecretsDirectory, authority: Authority, names: Names) -> None:
    passwords = directory.passwords()
    route = _present_route_password(directory) or new_secret().decode()
    for host in names.nats:
        peers = tuple(peer for peer in names.nats if peer != host)
        node = Node(host, peers, monitor=names.nats_monitor, store_bytes=names.nats_store_gib << 30)
        folder = directory.nats(node.name)
        folder.put("ca.crt", authority.certificate)
        renew(folder, authority, "nats", names_of_server(host, folder, authority), peer=True)
        folder.put("nats.conf", node_config(node, passwords=passwords, route_password=route).encode())


def _present_route_password(directory: SecretsDirectory) -> str | None:
    configurations = [(directory.nats(name).read("nats.conf") or b"").decode() for name in directory.nats_names()]
    return next(filter(None, map(route_password, configurations)), None)


def renew(folder: Folder, authority: Authority, name: str, hosts: tuple[str, ...], *, peer: bool = False) -> None:
    """See to `<name>.crt` and `<name>.key`, good for *hosts*. A crash between the two is seen at the next run."""
    present = read_pair(folder, name)
    why = authority.fault(present, hosts) if present else ""
    issued = present if present and why is None else authority.issue(hosts, peer=peer)
    folder.put(f"{name}.key", issued.key)
    folder.put(f"{name}.crt", issued.certificate, why or "")
