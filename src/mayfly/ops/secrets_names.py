"""
The names that a deployment's certificates and nats-servers have: those that were given, else those of the directory.

A role owns its directory, and so may have put another certificate there, or another configuration. So names are taken
over only from a certificate of the authority with its key beside it, which nobody has who was not given it, and only
of nats-servers that have directories here. From anything else nothing is taken but what a new directory would have
anyway; for other names the operator is asked. Rows: D4, D7.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mayfly.ops.certificates import Authority, Issued, is_address, is_host, names_in
from mayfly.ops.folder import Folder, SecretsUnusable
from mayfly.ops.nats_config import ROLES, Node, node_of
from mayfly.settings import SettingsError

GATEWAY_HOSTS = ("localhost", "127.0.0.1", "::1")
API_HOSTS = ("api", "api-1", "api-2", "localhost", "127.0.0.1")
NATS_HOSTS = ("nats-1", "nats-2", "nats-3")
NATS_MONITOR = "127.0.0.1"

USUAL = {"gateway": ("--host", GATEWAY_HOSTS), "api": ("--api-host", API_HOSTS)}

NO_SERVERS = frozenset({"ca", "public", "gateway", *ROLES})  # directories of others
SERVER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")  # a directory's name, and a server's


@dataclass(frozen=True, slots=True)
class Names:
    """By which names, or addresses, everybody is reached. The defaults are those of a new directory."""

    hosts: tuple[str, ...] = GATEWAY_HOSTS  # by which clients reach the gateway
    api_hosts: tuple[str, ...] = API_HOSTS
    nats: tuple[str, ...] = NATS_HOSTS  # the first label of each names its directory
    nats_monitor: str = NATS_MONITOR

    def check(self) -> None:
        """
        Refuse what can be in no certificate.

        Raises: SettingsError.
        """
        given = {"--host": self.hosts, "--api-host": self.api_hosts, "--nats": self.nats}
        for option, names in {**given, "--nats-monitor": (self.nats_monitor,)}.items():
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


def certified(folder: Folder, name: str, authority: Authority) -> tuple[str, ...]:
    """List the names of a certificate of the authority that has its key beside it; none of any other."""
    pair = read_pair(folder, name)
    return names_in(pair.certificate) if pair and authority.vouches_for(pair) else ()


def names_of_role(folder: Folder, role: str, authority: Authority) -> tuple[str, ...]:
    """
    List the names of the certificate of the API or the gateway; a new one's if there is none, or none that can be read.

    Raises: SecretsUnusable when it is for other names, and not one to take them from.
    """
    option, usual = USUAL[role]
    if names := certified(folder, role, authority):
        return names
    if not set(names_in(folder.read(f"{role}.crt") or b"")) <= set(usual):
        raise SecretsUnusable(
            f"{folder.path / role}.crt is not of this authority, or not of the key beside it, so its names are not "
            f"taken over: give them by {option}."
        )
    return usual


def servers_of(folders: Sequence[Folder]) -> tuple[str, ...]:
    """
    List the hosts of the nats-servers that have a configuration, in the order in which they were given.

    Raises: SecretsUnusable when the configurations do not name the same servers, those that have directories.
    """
    nodes = _nodes(folders)
    hosts = {node.host for node in nodes}
    named = {frozenset({node.host, *node.peers}) for node in nodes}
    if named <= {frozenset(NATS_HOSTS)}:  # also of a first run that was killed before it had come to the last one
        hosts = set(NATS_HOSTS)
    elif named != {frozenset(hosts)}:
        raise SecretsUnusable(
            f"{_paths(folders)} do not name each other, and nobody else, as the servers of one cluster: name all by "
            "--nats, and remove the directory of one that is no more."
        )
    # Who stands behind more of the others in their lists was given later.
    return tuple(sorted(sorted(hosts), key=lambda host: sum(n.peers.index(host) for n in nodes if host in n.peers)))


def monitor_of(folders: Sequence[Folder]) -> str:
    """
    Say where all nats-servers listen for monitoring.

    Raises: SecretsUnusable when they do not agree.
    """
    found = {node.monitor for node in _nodes(folders)} or {NATS_MONITOR}
    if len(found) > 1:
        raise SecretsUnusable(
            f"{_paths(folders)} do not listen for monitoring at the same address: give it by --nats-monitor."
        )
    return found.pop()


def _nodes(folders: Sequence[Folder]) -> list[Node]:
    nodes = []
    for folder in folders:
        node = node_of((folder.read("nats.conf") or b"").decode())
        if node is None or node.name != folder.path.name:
            raise SecretsUnusable(
                f"{folder.path}/nats.conf is not what this program writes for {folder.path.name}: remove it, and "
                "`mayfly secrets create` makes it anew."
            )
        nodes.append(node)
    return nodes


def _paths(folders: Sequence[Folder]) -> str:
    return ", ".join(f"{folder.path}/nats.conf" for folder in folders)
