"""
The names that a deployment's certificates and nats-servers have: those that are given, else those given before.

They are kept beside the authority's key, where no role can write: a role owns its directory, and would choose names for
itself if they were taken from what lies there. Rows: D4, D7.
"""

from __future__ import annotations

import re

import msgspec

from mayfly.ops.certificates import Authority, Issued, is_address, is_host, names_in
from mayfly.ops.folder import Folder, SecretsUnusable
from mayfly.ops.nats_config import ROLES, STORE_BYTES
from mayfly.settings import SettingsError

FILE = "names.json"

GATEWAY_HOSTS = ("localhost", "127.0.0.1", "::1")
API_HOSTS = ("api", "api-1", "api-2", "localhost", "127.0.0.1")
NATS_HOSTS = ("nats-1", "nats-2", "nats-3")
NATS_MONITOR = "127.0.0.1"
NATS_STORE_LEAST_GIB, NATS_STORE_MOST_GIB = 2, 16_384

LOOPBACK = ("localhost", "127.0.0.1")

NO_SERVERS = frozenset({"ca", "public", "gateway", *ROLES})  # directories of others
SERVER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")  # a directory's name, and a server's


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By which names, or addresses, everybody is reached. The defaults are those of a new directory."""

    hosts: tuple[str, ...] = GATEWAY_HOSTS  # by which clients reach the gateway
    api_hosts: tuple[str, ...] = API_HOSTS
    nats: tuple[str, ...] = NATS_HOSTS  # the first label of each names its directory
    nats_monitor: str = NATS_MONITOR
    nats_store_gib: int = STORE_BYTES >> 30

    def as_options(self) -> dict[str, tuple[str, ...]]:
        """Show everything by the options that give it."""
        return {**self._hosts_by_option(), "--nats-store-gib": (str(self.nats_store_gib),)}

    def _hosts_by_option(self) -> dict[str, tuple[str, ...]]:
        return {
            "--host": self.hosts,
            "--api-host": self.api_hosts,
            "--nats": self.nats,
            "--nats-monitor": (self.nats_monitor,),
        }

    def check(self) -> None:
        """
        Refuse what can be in no certificate.

        Raises: SettingsError.
        """
        if not NATS_STORE_LEAST_GIB <= self.nats_store_gib <= NATS_STORE_MOST_GIB:
            raise SettingsError(f"--nats-store-gib: from {NATS_STORE_LEAST_GIB} to {NATS_STORE_MOST_GIB}.")
        for option, names in self._hosts_by_option().items():
            if bad := [name for name in names if not is_host(name)]:
                raise SettingsError(f"{option}: {bad[0][:80]!r} is neither a host name nor an address, without a port.")
            if option in {"--nats", "--nats-monitor"} and (bad := [name for name in names if "*" in name]):
                raise SettingsError(f"{option}: {bad[0]!r} is not the name of one host.")
        labels = [label(name) for name in self.nats]
        if bad := [name for name, first in zip(self.nats, labels, strict=True) if not _can_be_server(name, first)]:
            raise SettingsError(
                f"--nats: {bad[0]!r} is no host name whose first label can name a directory: an address, or more than "
                "small letters, digits, `-` and `_`."
            )
        if len(set(labels)) != len(labels) or set(labels) & NO_SERVERS:
            raise SettingsError("--nats: the first label of each name is its directory, and so must be its own.")


def label(host: str) -> str:
    """Return the first label of a host's name: a nats-server's name, and its directory's."""
    return host.partition(".")[0]


def _can_be_server(name: str, first: str) -> bool:
    return not is_address(name) and SERVER.fullmatch(first) is not None


def read_pair(folder: Folder, name: str) -> Issued | None:
    """Read `<name>.crt` and `<name>.key`; None if one of them is not there."""
    certificate, key = folder.read(f"{name}.crt"), folder.read(f"{name}.key")
    return None if certificate is None or key is None else Issued(certificate, key)


def names_of_server(host: str, folder: Folder, authority: Authority) -> tuple[str, ...]:
    """List the names of a nats-server's certificate: its own, and those that a platform has had put into it."""
    return tuple(dict.fromkeys((*certified(folder, "nats", authority), label(host), host, *LOOPBACK)))


def certified(folder: Folder, name: str, authority: Authority) -> tuple[str, ...]:
    """List the names of a certificate of the authority that has its key beside it; none of any other."""
    pair = read_pair(folder, name)
    return names_in(pair.certificate) if pair and authority.vouches_for(pair) else ()


def names_before(ca: Folder) -> Names | None:
    """
    Read the names that were given before; None if nobody has kept any.

    Raises: SecretsUnusable.
    """
    content = ca.read(FILE)
    try:
        return None if content is None else msgspec.json.decode(content, type=Names)
    except msgspec.MsgspecError as error:
        raise SecretsUnusable(
            f"{ca.path / FILE} is not what this program wrote ({error}): remove it, and give all names again by "
            "--host, --api-host, --nats, --nats-monitor and --nats-store-gib."
        ) from error


def keep_names(ca: Folder, names: Names) -> None:
    """Keep them for the next time; the order is nobody's business."""
    before = names_before(ca)
    if before is None or not all(map(_same, names.as_options().values(), before.as_options().values())):
        ca.put(FILE, msgspec.json.format(msgspec.json.encode(names), indent=2))


def _same(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return set(some) == set(others)
