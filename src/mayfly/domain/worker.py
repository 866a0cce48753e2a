"""What a worker says of itself once a second. Rows: A5."""

from __future__ import annotations

import msgspec

from mayfly.domain.ids import WorkerId

BEAT_EVERY_S = 1.0
BEAT_LIVES_S = 5.0  # a worker not heard of for this long is not there


class WorkerBeat(msgspec.Struct, frozen=True, kw_only=True):
    """One sign of life."""

    v: int = 1
    id: WorkerId
    host: str
    version: str
    runtime: str
    slots: int
    running: int
    held: int = 0  # containers that are created and wait for a call
    images: int
    started_at: float
    beat_at: float
    draining: bool = False  # it claims nothing more, and leaves when what runs has ended
    gone: bool = False  # its last words
