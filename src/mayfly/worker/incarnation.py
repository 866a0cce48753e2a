"""
Who worked here before: what a worker leaves in its state directory, so that its successor can prove it gone.

A worker that ends in order says goodbye itself. One that was killed cannot. But whoever starts next in its state
directory has that directory's lock, and has reaped what was left there: if that is where the dead one had its
containers, none of them lives, and their slots need not wait for `FENCE_S`.

Guarantees: a proof is written only for an id that was found in our own, locked directory, and only if the containers of
that id were where we have reaped (`Runtime.home`). A copy of the directory on another machine, an older boot, another
cgroup or another Docker daemon proves nothing.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import msgspec
import structlog

from mayfly import __version__
from mayfly.bus.store import Store
from mayfly.containers.runtime import Runtime
from mayfly.domain.ids import ID, WorkerId
from mayfly.domain.worker import GONE_LIVES_S, WorkerBeat

log = structlog.get_logger()

FILE = "worker.json"


class Incarnation(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a worker: its id, and where its containers are."""

    id: WorkerId
    home: str


def read(state_dir: Path) -> Incarnation | None:
    """Say who worked here last and did not say goodbye; None if nobody did, or the file cannot be read."""
    try:
        found = msgspec.json.decode((state_dir / FILE).read_bytes(), type=Incarnation)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("worker.former-unreadable", file=str(state_dir / FILE), error=str(error))
        return None
    return found if ID.fullmatch(found.id) else None


def write(state_dir: Path, incarnation: Incarnation) -> None:
    """
    Say who works here now; all of it or nothing.

    Raises: OSError.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    new = state_dir / f"{FILE}.new"
    new.write_bytes(msgspec.json.encode(incarnation))
    new.chmod(0o600)
    new.replace(state_dir / FILE)


def forget(state_dir: Path) -> None:
    """Nobody works here: what there was to say has been said."""
    (state_dir / FILE).unlink(missing_ok=True)


async def succeed(state_dir: Path, new: Incarnation, runtime: Runtime, workers: Store[WorkerBeat]) -> None:
    """
    Take the place of whoever worked here, and say that it is gone, if that is sure. Call it when *runtime* has reaped.

    Raises: QueueUnavailable; OSError when the state directory cannot be written.
    """
    former = read(state_dir)
    if former and former.home == new.home:
        await workers.put(former.id, last_words(former.id, runtime), ttl_s=GONE_LIVES_S)
        log.info("worker.former-gone", former=former.id)
    elif former:
        log.info("worker.former-elsewhere", former=former.id)
    write(state_dir, new)


def last_words(worker_id: WorkerId, runtime: Runtime) -> WorkerBeat:
    """Make what the successor says of a worker that is gone."""
    return WorkerBeat(
        id=worker_id,
        host=platform.node(),
        version=__version__,
        runtime=runtime.name,
        slots=0,
        running=0,
        images=0,
        started_at=0,
        beat_at=time.time(),
        gone=True,
    )
