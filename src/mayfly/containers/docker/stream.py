"""
What comes out of a container: frames of stdout and stderr in turn, and at the very end of stderr the init's report.

The report is known by the secret that went in with the call. The init writes it when every other process of the
container is dead, so nothing comes after it, and nothing in front of it is ours.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from mayfly.containers import bundle, frame
from mayfly.containers.runtime import Call

SECRET_BYTES = 16
UNKNOWN = (1 << 64) - 1

STDOUT, STDERR = 1, 2
KILL = b"K"

_PRELUDE = struct.Struct(f"={SECRET_BYTES}s2I")
_LAST_WORDS = struct.Struct(f"={SECRET_BYTES}s2I3Q")
_FRAME = struct.Struct(">B3xI")
FRAME_BYTES = _FRAME.size


def encode(
    call: Call, seccomp_program: bytes, *, image_env: tuple[tuple[str, str], ...], secret: bytes, limit_s: float
) -> bytes:
    """
    Write all that a held init of this driver is given: prelude, frame with the whole environment (what a daemon adds
    to a container's is not the function's), and the function's own input. After *limit_s* the init ends all by itself.

    Raises: RuntimeFailed as `frame.encode`.
    """
    env = (("PATH", bundle.DEFAULT_PATH), *image_env, *call.env)
    whole = frame.encode(Call(argv=call.argv, env=env), seccomp_program)
    return _PRELUDE.pack(secret, len(call.stdin), round(limit_s * 1000)) + whole + call.stdin


def decode_frame(header: bytes) -> tuple[int, int]:
    """Read the header of a frame of output: of which stream, how many bytes follow."""
    kind, size = _FRAME.unpack(header)
    return kind, size


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWords:
    """How the init says that it ended: the report, and what its cgroup counted."""

    report: frame.Report
    cpu_us: int
    memory_peak_bytes: int
    oom_kills: int | None
    """None where the cgroup could not be read."""


class Withheld:
    """Passes on stderr, but for the last bytes so far, which may be the init's last words."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        """*take* is given what the function wrote."""
        self._take = take
        self._kept = b""

    def __call__(self, chunk: bytes) -> None:
        """Take what was read."""
        self._kept += chunk
        beyond = len(self._kept) - _LAST_WORDS.size
        if beyond > 0:
            self._take(self._kept[:beyond])
            self._kept = self._kept[beyond:]

    def end(self, secret: bytes) -> LastWords | None:
        """The init's last words; where there are none, what was kept is the function's as well."""
        kept, self._kept = self._kept, b""
        if len(kept) != _LAST_WORDS.size or not kept.startswith(secret):
            self._take(kept)
            return None
        _, kind, value, cpu_us, peak, oom_kills = _LAST_WORDS.unpack(kept)
        return LastWords(
            report=frame.Report(kind, value),
            cpu_us=cpu_us,
            memory_peak_bytes=peak,
            oom_kills=None if oom_kills == UNKNOWN else oom_kills,
        )
