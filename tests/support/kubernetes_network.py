"""
Who can reach whom under a set of NetworkPolicies: the rules of networking.k8s.io/v1, for TCP and UDP ports by number.

A pod that no policy selects for a direction is free in that direction; a selected one may do what at least one policy
allows. A connection needs both ends to agree. The kubelet's own probes are outside of this, as they are in a cluster.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
Flow = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody who connects or is connected to: a pod, or an address that is in no namespace."""

    name: str
    address: str
    ports: tuple[int, ...] = ()
    namespace: str | None = None
    labels: dict[str, str] = field(default_factory=dict)


def flows(policies: list[Object], parties: list[Party]) -> Iterator[Flow]:
    """All connections that are allowed, of each of *parties* to each port of each."""
    for source in parties:
        for target in parties:
            for port in target.ports:
                leaves = _allowed(policies, "Egress", source, target, port)
                if leaves and _allowed(policies, "Ingress", target, source, port):
                    yield source.name, target.name, port


def _allowed(policies: list[Object], direction: str, subject: Party, other: Party, port: int) -> bool:
    """Whether *subject* may send to (Egress), or be reached by (Ingress), *other*."""
    ours = [policy for policy in policies if _selects(policy, subject) and direction in policy["spec"]["policyTypes"]]
    return not ours or any(
        _rule_matches(policy, rule, other, port) for policy in ours for rule in _rules(policy, direction)
    )


def _rules(policy: Object, direction: str) -> Iterable[Object]:
    rules: list[Object] = policy["spec"].get(direction.lower(), [])
    return rules


def _selects(policy: Object, party: Party) -> bool:
    same = party.namespace == policy["metadata"]["namespace"]
    return same and matches(policy["spec"]["podSelector"], party.labels)


def _rule_matches(policy: Object, rule: Object, other: Party, port: int) -> bool:
    peers = rule.get("from") or rule.get("to")
    ports = rule.get("ports")
    named = not ports or any(each["port"] == port for each in ports)
    return named and (not peers or any(_peer_matches(policy, peer, other) for peer in peers))


def _peer_matches(policy: Object, peer: Object, other: Party) -> bool:
    if "ipBlock" in peer:
        return _in_block(peer["ipBlock"], other.address)
    if other.namespace is None:
        return False
    names = {"kubernetes.io/metadata.name": other.namespace}
    if "namespaceSelector" in peer:
        here = matches(peer["namespaceSelector"], names)
    else:
        here = other.namespace == policy["metadata"]["namespace"]
    return here and matches(peer.get("podSelector", {}), other.labels)


def _in_block(block: Object, address: str) -> bool:
    def inside(network: str) -> bool:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)

    return inside(block["cidr"]) and not any(map(inside, block.get("except", [])))


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector, of `matchLabels` only, selects what has *labels*; an empty one selects everything."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
