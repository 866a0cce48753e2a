"""
A machine and the world around it, in network namespaces of the tests' own: nobody's network is touched.

    machine   this process; 198.51.100.1 is its public address, and everything else is behind 198.51.100.10
    outside   has every other address there is: web, mail and name servers on public ones, and also on those that
              functions must not reach, so that only a rule can be what keeps them out

Names are answered by dnsmasq at 198.51.100.53 (the resolver of this machine) and at 198.51.100.54 (another one).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support.need import need

MACHINE = "198.51.100.1"
RESOLVER, OTHER_RESOLVER = "198.51.100.53", "198.51.100.54"
WEB = "203.0.113.80"
NAME = "web.outside.example"
SIX, MACHINE_SIX = "2001:db8:1::10", "2001:db8:1::1"
REFUSED = (
    "10.9.9.9",
    "100.64.9.9",
    "169.254.169.254",
    "172.16.9.9",
    "172.31.9.9",
    "192.0.0.9",
    "192.168.9.9",
    "198.18.9.9",
)
"""What a machine may well have a route to, and functions may not reach."""

TCP_PORTS = (25, 80, 443, 8080)
UDP_PORT = 7
MACHINES_PORTS = (22, 53, 80, 4222)
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


class Outside:
    """The world as the tests see it."""

    def __init__(self, descriptor: int) -> None:
        """*descriptor* is its namespace's."""
        self.descriptor = descriptor
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        """HTTP requests that arrived: the caller's address, the path, headers and body."""
        self.answers: list[tuple[int, str]] = []
        """Status codes to answer with, and when to come back (or ""), one a request; then 200."""
        self.heard: list[tuple[str, bytes]] = []
        """Datagrams that arrived: the sender's address and the content."""
        self.heard_of = threading.Condition()

    def wait_for(self, content: bytes) -> str:
        """Wait for a datagram, and say from which address it came."""
        with self.heard_of:
            assert self.heard_of.wait_for(lambda: any(said == content for _, said in self.heard), timeout=20)
            return next(sender for sender, said in self.heard if said == content)

    def run(self, *command: str, status: int = 0) -> str:
        """Run a program there, which must end with *status*."""
        return _run("nsenter", f"--net=/proc/{os.getpid()}/fd/{self.descriptor}", *command, status=status)


@contextmanager
def machine_and_outside() -> Iterator[Outside]:
    """Put this thread, and what it starts, into the machine's namespace; back in the old one nothing is left."""
    need(os.geteuid() == 0, "root")
    for program in ("ip", "nft", "dnsmasq"):
        need(shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin"), program)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    with ExitStack() as stack:
        stack.callback(os.close, home)
        outside = Outside(_namespace())
        stack.callback(os.close, outside.descriptor)
        stack.callback(_enter, home)
        machine = _namespace()
        _enter(machine)
        os.close(machine)
        _lay_cables(outside)
        stack.enter_context(_servers(outside))
        yield outside


def _namespace() -> int:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        _enter(home)
        os.close(home)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _lay_cables(outside: Outside) -> None:
    there = f"/proc/{os.getpid()}/fd/{outside.descriptor}"
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", there)
    _run("ip", "address", "add", f"{MACHINE}/24", "dev", "up0")
    _run("ip", "-6", "address", "add", f"{MACHINE_SIX}/64", "dev", "up0", "nodad")
    _run("ip", "link", "set", "up0", "up")
    _run("ip", "route", "add", "default", "via", "198.51.100.10")
    _run("ip", "-6", "route", "add", "default", "via", SIX)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    outside.run("ip", "link", "set", "lo", "up")
    for address in ("198.51.100.10/24", f"{RESOLVER}/24", f"{OTHER_RESOLVER}/24", f"{WEB}/32"):
        outside.run("ip", "address", "add", address, "dev", "down0")
    for address in REFUSED:
        outside.run("ip", "address", "add", f"{address}/32", "dev", "down0")
    outside.run("ip", "-6", "address", "add", f"{SIX}/64", "dev", "down0", "nodad")
    outside.run("ip", "link", "set", "down0", "up")
    # Packets of functions, were they to arrive with their own address, would be answered: only masquerading hides it.
    outside.run("ip", "route", "add", "default", "via", MACHINE)


def _echo(outside: Outside) -> type[socketserver.BaseRequestHandler]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            content, sock = self.request
            with outside.heard_of:
                outside.heard.append((self.client_address[0], content))
                outside.heard_of.notify_all()
            sock.sendto(content, self.client_address)

    return Handler


class _Threads(socketserver.ThreadingMixIn):
    daemon_threads = True
    allow_reuse_address = True


class _Tcp(_Threads, socketserver.TCPServer):
    request_queue_size = 512


class _TcpSix(_Tcp):
    address_family = socket.AF_INET6


class _Udp(_Threads, socketserver.UDPServer):
    pass


class _Closing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"hello\n")


def _web(outside: Outside) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            outside.seen.append((self.client_address[0], self.path, dict(self.headers), body))
            status, retry_after = outside.answers.pop(0) if outside.answers else (200, "")
            answer = b'{"id": "ch_1", "status": "done"}' if status == 200 else b'{"error": "busy"}'
            self.send_response(status)
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = _answer  # noqa: N815 - the standard library's names

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def _servers(outside: Outside) -> Iterator[None]:
    with ExitStack() as stack:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, home)
        servers: list[socketserver.BaseServer] = []
        _enter(outside.descriptor)
        try:
            servers.extend(_Tcp(("0.0.0.0", port), _web(outside)) for port in TCP_PORTS)
            servers.append(_TcpSix((SIX, 80), _web(outside)))
            servers.extend(_Udp((address, UDP_PORT), _echo(outside)) for address in (WEB, *REFUSED))
        finally:
            _enter(home)
        for port in MACHINES_PORTS:
            servers.append(_Tcp(("0.0.0.0", port), _Closing))
            servers.append(_Udp((MACHINE, port), _echo(outside)))
        for server in servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        stack.enter_context(_dnsmasq(outside))
        yield


@contextmanager
def _dnsmasq(outside: Outside) -> Iterator[None]:
    """Answers for NAME, and for nothing else, on both resolvers' addresses."""
    options = (
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--user=root",
        "--pid-file=",
    )
    listen = ("--bind-interfaces", f"--listen-address={RESOLVER}", f"--listen-address={OTHER_RESOLVER}")
    names = (f"--address=/{NAME}/{WEB}", f"--address=/private.{NAME}/10.9.9.9", "--log-facility=-")
    entered = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{outside.descriptor}")
    process = subprocess.Popen([*entered, "dnsmasq", *options, *listen, *names], stderr=subprocess.DEVNULL)
    try:
        _until_it_listens(process, RESOLVER)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def _until_it_listens(process: subprocess.Popen[bytes], address: str) -> None:
    while process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((address, 53), timeout=20):
            return
    raise RuntimeError(f"dnsmasq ended with {process.returncode}")


def _run(*command: str, status: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != status:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout
