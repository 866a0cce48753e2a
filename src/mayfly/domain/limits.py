"""What an activation may use. The constants are the platform's ceilings; `Limits` is what one function asks for."""

from __future__ import annotations

from typing import Annotated

import msgspec

KIB = 1024
MIB = 1024 * KIB

PARAMETER_MAX_BYTES = 1 * MIB
RESULT_MAX_BYTES = 1 * MIB
STDERR_MAX_BYTES = 256 * KIB
ARGUMENT_MAX_BYTES = 131_000  # the kernel takes 131,071 bytes for one argument or variable, its name and NUL included
SCRATCH_BYTES = 64 * MIB  # the writable layer, charged to the function's memory
SCRATCH_INODES = 16_384

TIMEOUT_MIN_S, TIMEOUT_MAX_S = 0.1, 300.0
MEMORY_MIN_MIB, MEMORY_MAX_MIB = 32, 8192
CPUS_MIN, CPUS_MAX = 0.05, 16.0
PIDS_MIN, PIDS_MAX = 4, 4096
CONCURRENCY_MIN, CONCURRENCY_MAX = 1, 256  # of one function, where its owner sets a limit


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one function may use in one activation. What is read off the bus is checked against what makes sense at all,
    and not against the ceilings: those may be lowered, and what was registered before is still to be read.
    """

    memory_mib: Annotated[int, msgspec.Meta(ge=1, le=2**24)] = 128
    cpus: Annotated[float, msgspec.Meta(gt=0, le=4096)] = 1.0
    pids: Annotated[int, msgspec.Meta(ge=1, le=2**22)] = 64
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0
    max_concurrency: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Activations in flight, waiting and running alike; None for no limit of its own."""

    @property
    def memory_bytes(self) -> int:
        """The memory limit in bytes; there is no swap beside it."""
        return self.memory_mib * MIB

    @property
    def scratch_bytes(self) -> int:
        """Size of the writable layer: full, it must still leave 16 MiB, or filling it would be an out-of-memory."""
        return min(SCRATCH_BYTES, self.memory_bytes - 16 * MIB)
