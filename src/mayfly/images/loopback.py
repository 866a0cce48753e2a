"""
A network namespace with nothing in it but a loopback of its own.

What runs in it can connect to nobody except through a listener that the worker put there, and serves from outside.

Guarantees: the namespace belongs to a user namespace that a child of ours made, so it takes CAP_SYS_ADMIN and no
CAP_NET_ADMIN; nothing is mounted, and the namespace goes with its last process and descriptor; the worker's own threads
stay where they are, as only a thread that ends at once goes in. Rows: F6.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mayfly.images.programs import PATH

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
INTERFACE = struct.Struct("16sH22x")  # ifreq: name, flags
MAKE_S = 10.0
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]


class Loopback:
    """One such namespace, held by a descriptor; close it."""

    def __init__(self, descriptor: int) -> None:
        """Take over the namespace's descriptor. `make` is what makes one."""
        self.descriptor = descriptor

    @classmethod
    async def make(cls) -> Loopback:
        """
        Make one, with its loopback up.

        Raises: OSError where this process may not, or has no programs to do it with.
        """
        made = cls(await _new_namespace())
        try:
            made._inside(_bring_up)
        except BaseException:
            made.close()
            raise
        return made

    def listen(self, host: str, port: int) -> socket.socket:
        """
        Listen on an address of its loopback, 127.0.0.0/8 or ::1; port 0 is any free one.

        Raises: OSError.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return self._inside(lambda: socket.create_server((host, port), family=family))

    def enter(self, argv: list[str]) -> list[str]:
        """Say how to run a program in it; the program has to be handed `descriptor` under its number."""
        return ["nsenter", f"--net=/proc/self/fd/{self.descriptor}", "--", *argv]

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)

    def _inside(self, work: Callable[[], T]) -> T:
        """Do something short in it, on a thread that ends with that: a thread of a pool would stay inside."""

        def go_in_and_work() -> T:
            if _libc.setns(self.descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
            return work()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(go_in_and_work).result()


async def _new_namespace() -> int:
    """Have a child make the namespaces (a process with threads cannot), and open the one of the network."""
    child = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--net", "--", "cat"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": PATH},
    )
    descriptor: int | None = None
    try:
        async with asyncio.timeout(MAKE_S):
            descriptor = await _opened(child)
    finally:
        if child.returncode is None:
            child.kill()
        try:
            await child.communicate()
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
    return descriptor


async def _opened(child: asyncio.subprocess.Process) -> int:
    assert child.stdin is not None  # noqa: S101 - a pipe, as asked for
    assert child.stdout is not None  # noqa: S101 - a pipe, as it was started
    assert child.stderr is not None  # noqa: S101 - a pipe, as it was started
    child.stdin.write(b"\n")
    if await child.stdout.read(1) != b"\n":  # `cat` answers from inside
        words = (await child.stderr.read()).decode(errors="replace").strip()
        raise OSError(words or "unshare failed")
    descriptor = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)
    if os.path.samestat(os.fstat(descriptor), os.stat("/proc/self/ns/net")):  # noqa: PTH116 - does not block
        os.close(descriptor)
        raise OSError("unshare made no network namespace")
    return descriptor


def _bring_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, INTERFACE.pack(b"lo", IFF_UP))
