"""The one message to the held init and its one answer; the other side is `native/call.h`."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mayfly.containers.runtime import Call
from mayfly.domain.errors import RuntimeFailed

PROTOCOL = 1
READY = b"R"
MAX_STRINGS = 65_536
MAX_STRINGS_BYTES = 4 << 20

_HEADER = struct.Struct("=5I")
_REPORT = struct.Struct("=2I")
REPORT_BYTES = _REPORT.size
EXITED, SIGNALLED, REFUSED, KILLED = 1, 2, 3, 4  # the last: because the worker said so


def encode(call: Call, seccomp_program: bytes) -> bytes:
    """
    Write the frame that makes a held init run *call*.

    Raises: RuntimeFailed (nothing ran) when it does not fit a frame: nothing to run, NUL in a string, too long.
    """
    words = [*call.argv, *(f"{name}={value}" for name, value in call.env)]
    if any("\0" in word for word in words):
        raise RuntimeFailed("An argument or environment variable holds a NUL byte, which no command can be given.")
    strings = b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)
    if not call.argv or len(words) > MAX_STRINGS or len(strings) > MAX_STRINGS_BYTES:
        raise RuntimeFailed(
            f"The command line is empty or too long: {len(words)} strings, {len(strings)} bytes "
            f"(at most {MAX_STRINGS} and {MAX_STRINGS_BYTES})."
        )
    header = _HEADER.pack(PROTOCOL, len(call.argv), len(call.env), len(strings), len(seccomp_program))
    return header + strings + seccomp_program


@dataclass(frozen=True, slots=True)
class Report:
    """How the held init says that its command ended."""

    kind: int
    value: int

    @property
    def exit_code(self) -> int:
        """As a shell counts: 128+n for signal n."""
        return self.value + 128 if self.kind == SIGNALLED else self.value


def decode(message: bytes) -> Report | None:
    """Read the init's report; None when it died without one."""
    return Report(*_REPORT.unpack(message)) if len(message) == REPORT_BYTES else None
