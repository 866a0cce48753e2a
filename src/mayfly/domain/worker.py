"""What a worker says of itself once a second, and how long it may go on without being heard. Rows: A5, F11."""

from __future__ import annotations

import msgspec

from mayfly.domain.stored import Count, Moment, StoredWorkerId

BEAT_EVERY_S = 1.0
BEAT_LIVES_S = 5.0  # a worker not heard of for this long is not there
LEASE_S = 12.0
"""How long a worker's containers may outlive its last proof that it may go on: longer than a change of leader takes
(8 s), shorter than `services.janitor.FENCE_S`, after which their slots are another's."""
GONE_LIVES_S = 3600.0  # the proof that a worker is gone; longer than any activation, and than most outages


class WorkerBeat(msgspec.Struct, frozen=True, kw_only=True):
    """One sign of life."""

    v: int = 1
    id: StoredWorkerId
    host: str
    version: str
    runtime: str
    slots: Count
    running: Count
    held: Count = 0  # containers that are created and wait for a call
    images: Count
    started_at: Moment
    beat_at: Moment
    egress: bool = False  # it gives functions with `network: egress` theirs
    draining: bool = False  # it claims nothing more: told to stop, it then leaves; drained by an operator, it stays
    gone: bool = False  # its last words, or its successor's: no container of it lives, and none ever will
