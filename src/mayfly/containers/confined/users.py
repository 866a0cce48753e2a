"""
The users that calls run as: each call has two that no other has, one to live as and one to be killed by.

No account is needed for them. They are far above what systems, images and container engines give out, and a worker has
a block of them to itself: what runs as one of them is one of its calls. Within a network namespace the block is held by
an abstract socket's name, which the kernel gives to one process at a time and takes back when that ends, however it
ends. Between pods of one machine, whose users are the kernel's same, it is chosen by chance, out of thousands; and
before a call is held the kernel is asked whether somebody lives as its user.
"""

from __future__ import annotations

import secrets
import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from mayfly.domain.errors import RuntimeFailed

FIRST = 2_000_000_000
CALLS = 8192
"""Of one worker at once; twice as many as a worker may have slots."""

BLOCKS = 8192
ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class User:
    """Whom a call lives as, and by whom it is killed."""

    uid: int
    killer: int


class Users:
    """A worker's block of users."""

    def __init__(self, block: int, name: socket.socket) -> None:
        """Not for callers: `claim` makes them."""
        self._name = name
        self.first = FIRST + block * 2 * CALLS
        # The one that was free for longest comes first: the kernel may count a dead process for a moment more.
        self._free = deque(range(self.first, self.first + CALLS))

    @classmethod
    def claim(cls, left: Iterable[int] = ()) -> Users:
        """
        Take a block for as long as this process lives: that of users that are *left* from an earlier worker, if it can.

        Raises: RuntimeFailed when every one that was tried is taken.
        """
        preferred = [(uid - FIRST) // (2 * CALLS) for uid in left]
        tried = [secrets.randbelow(BLOCKS) for _ in range(ATTEMPTS)]
        for block in dict.fromkeys([*(each for each in preferred if 0 <= each < BLOCKS), *tried]):
            name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                name.bind(f"\0mayfly-confined-{block}")
            except OSError:
                name.close()
            else:
                return cls(block, name)
        raise RuntimeFailed(
            f"No users can be had for confined calls: of {BLOCKS} blocks {ATTEMPTS} were tried. Something in this "
            "network namespace holds abstract sockets by the name of mayfly-confined: end it."
        )

    def take(self) -> User:
        """
        Take one that is nobody's.

        Raises: RuntimeFailed.
        """
        if not self._free:
            raise RuntimeFailed(f"{CALLS} calls are confined here at once, the most there may be.")
        uid = self._free.popleft()
        return self.of(uid)

    def of(self, uid: int) -> User:
        """Say who kills what runs as *uid*."""
        return User(uid, uid + CALLS)

    def owns(self, uid: int) -> bool:
        """Whether *uid* is of our block, so that what runs as it is ours to kill."""
        return self.first <= uid < self.first + CALLS

    def give_back(self, user: User) -> None:
        """Let another call have it. Nobody may live as it any more."""
        self._free.append(user.uid)

    def close(self) -> None:
        """Let another worker have the block."""
        self._name.close()
