"""
What functions may reach, in the words of nftables: a pure function from a policy to one table, and loading it.

The hooks come before those of others (priority -10), and refuse; what passes here, others may still refuse. Nothing in
the text comes from a user.

Guarantees, for packets that come in by one of our interfaces:
- none reaches this machine itself, whichever of its addresses it names, but for DNS at a resolver that is on it;
- none reaches another function; none is IPv6, nor of a protocol but TCP, UDP and ICMP (a kernel has more, and loads
  their modules for whoever asks);
- none reaches a private, shared, link-local, loopback, multicast or reserved address, a cloud's metadata, port 25, or
  port 53 of another than the resolvers, unless the operator allows that address;
- none has another source than the address of that very interface;
- nobody opens a connection to a function;
- what arrives for a function that is no more goes nowhere, and not on by the machine's default route.
TCP is refused by a reset, so that `connect` fails at once: an ICMP answer is lost, as the socket is locked while a veth
pair delivers it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable

from mayfly.domain.addresses import SPECIAL
from mayfly.domain.egress import EgressPolicy, Target
from mayfly.domain.errors import RuntimeFailed

FLOWS_MAX = 256
"""Connections of one function at a time: the kernel's table of them is the whole machine's."""

NFT_TIMEOUT_S = 20.0
SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def table_name(worker: str) -> str:
    """Name the table of the worker called *worker*: several may share a machine."""
    return f"mayfly_{worker}"


def ruleset(table: str, interfaces: str, policy: EgressPolicy) -> str:
    """Write the table called *table* for the interfaces whose names begin with *interfaces*, whatever it was before."""
    ours = f'"{interfaces}*"'
    resolvers = [f"ip daddr {address} meta l4proto {{ tcp, udp }} th dport 53" for address in policy.resolvers]
    return f"""\
table inet {table}
delete table inet {table}
table inet {table} {{
  set flows {{
    type ipv4_addr
    size 65535
    flags dynamic
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    meta nfproto ipv4 reject with icmp admin-prohibited
    drop
  }}
  chain honest {{
    meta nfproto ipv6 drop
    fib saddr . iif oif missing drop
    ct state established accept
    ct state related meta l4proto icmp accept
    ct state != new drop
    add @flows {{ ip saddr ct count over {FLOWS_MAX} }} goto refuse
  }}
  chain to_this_machine {{
    jump honest
{_lines(f"{each} accept" for each in resolvers)}    goto refuse
  }}
  chain to_others {{
    oifname {ours} goto refuse
    jump honest
{_lines(f"{each} accept" for each in resolvers)}\
{_lines(f"{each} accept" for target in policy.allow for each in _matches(target))}\
{_lines(f"{each} goto refuse" for target in policy.deny for each in _matches(target))}\
    ip daddr {{ {", ".join(map(str, SPECIAL))} }} goto refuse
    tcp dport 25 goto refuse
    meta l4proto {{ tcp, udp }} th dport 53 goto refuse
    meta l4proto {{ tcp, udp, icmp }} accept
    goto refuse
  }}
  chain to_functions {{
    ct state established accept
    ct state related meta l4proto icmp accept
    goto refuse
  }}
  chain from_this_machine {{
    ct state established accept
    ct state related accept
    goto refuse
  }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname {ours} goto to_this_machine
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname {ours} goto to_others
    oifname {ours} goto to_functions
    ip daddr {policy.addresses} drop
  }}
  chain output {{
    type filter hook output priority filter - 10; policy accept;
    oifname {ours} goto from_this_machine
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {policy.addresses} oifname != {ours} masquerade fully-random
  }}
}}
"""


def install(table: str, interfaces: str, policy: EgressPolicy) -> str:
    """
    Load the rules, all of them or none, in place of what a dead worker left; return them as `listing` does.

    Raises: RuntimeFailed with nft's words and the remedy.
    """
    _nft("-f", "-", commands=ruleset(table, interfaces, policy))
    return listing(table)


def listing(table: str) -> str:
    """
    List the table as nft does, which is not as it was written, without what packets change in it; nothing if there is
    no such table.

    Raises: RuntimeFailed.
    """
    return _nft("--stateless", "--terse", "list", "table", "inet", table) if is_installed(table) else ""


def is_installed(table: str) -> bool:
    """
    Whether there is a table of this name.

    Raises: RuntimeFailed.
    """
    return f"table inet {table}" in _nft("list", "tables", "inet").splitlines()


def dropping(table: str) -> list[str]:
    """
    Name the chains of others that drop what they do not know of what is forwarded, as dockerd's does.

    Raises: RuntimeFailed.
    """
    found = [each["chain"] for each in json.loads(_nft("--json", "list", "chains"))["nftables"] if "chain" in each]
    return [
        f"{each['family']} {each['table']} {each['name']}"
        for each in found
        if each.get("hook") == "forward" and each.get("policy") == "drop" and each["table"] != table
    ]


def uninstall(table: str) -> None:
    """
    Remove the rules. Idempotent.

    Raises: RuntimeFailed.
    """
    _nft("-f", "-", commands=f"table inet {table}\ndelete table inet {table}\n")


def _matches(target: Target) -> tuple[str, ...]:
    where = f"ip daddr {target.network}"
    return (where,) if target.port is None else (f"{where} meta l4proto {{ tcp, udp }} th dport {target.port}",)


def _lines(rules: Iterable[str]) -> str:
    return "".join(f"    {rule}\n" for rule in rules)


def _nft(*arguments: str, commands: str = "") -> str:
    program = shutil.which("nft", path=SEARCH_PATH)
    if program is None:
        raise RuntimeFailed("MAYFLY_EGRESS needs nft, which is not installed: apt-get install nftables.")
    try:
        done = subprocess.run(
            [program, *arguments],
            input=commands,
            capture_output=True,
            text=True,
            timeout=NFT_TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        words = str(error.stderr).strip().splitlines()
        raise RuntimeFailed(
            f"The rules for egress cannot be loaded: {words[0] if words else 'nft gave no reason'}. The worker needs "
            "CAP_NET_ADMIN, and a kernel with nftables; or set MAYFLY_EGRESS=off."
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeFailed(f"The rules for egress cannot be loaded: {error}.") from error
    return done.stdout
