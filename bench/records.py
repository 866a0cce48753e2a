"""
What stored records cost: bytes on disk and in memory, and whether writing gets slower as they pile up.

    .venv/bin/python -m bench.records [--records N] [--cluster]

One nats-server of its own with one copy, or with --cluster three with three copies and TLS, all on this machine and on
its disk; records as an ordinary call leaves them, of a hundred users. Bytes are those of one server.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from mayfly.bus.codec import Codec
from mayfly.bus.connection import Bus
from mayfly.bus.store import Store
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State, Steps
from mayfly.domain.ids import Digest, FunctionName, UserId, WorkerId, new_id, new_ulid
from tests.support.bus import installation
from tests.support.cluster import cluster

AT_ONCE, ALONE = 50, 300
KEEP_S = 86_400.0


def record(user: str, instance: str) -> Activation:
    """Make the final record of a call that succeeded."""
    now = time.time()
    return Activation(
        state=State.SUCCEEDED,
        nonce=new_id(),
        user_id=UserId(user),
        instance=instance,
        ulid=new_ulid(),
        function=FunctionName("upper"),
        function_id=new_id(),
        image="docker.io/library/busybox:latest",
        digest=Digest("sha256:" + "a" * 64),
        parameter_bytes=13,
        parameter_sha256=hashlib.sha256(b"hello, mayfly").hexdigest(),
        created_at=now,
        deadline_at=now + 30,
        ran="yes",
        worker=WorkerId(new_id()),
        started_at=now,
        ended_at=now,
        attempt=new_id(),
        response_seq=123_456,
        exit_code=0,
        result_bytes=13,
        stderr_bytes=0,
        cpu_us=4_000,
        memory_peak_bytes=1 << 20,
        steps=Steps(admit_s=0.0012, queue_s=0.0003, image_s=0.002, start_s=0.007, run_s=0.008),
    )


async def create(store: Store[Activation], one: Activation) -> float:
    """Write one record; return how long it took."""
    began = time.perf_counter()
    await store.create(one.key, one, ttl_s=KEEP_S)
    return time.perf_counter() - began


def size_of(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def memory_of(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@asynccontextmanager
async def servers(*, three: bool) -> AsyncIterator[tuple[Bus, int, Path]]:
    """Start one server or three; give a connection, and the process and the files of one of them."""
    if not three:
        async with installation() as one, one.connect("admin") as bus:
            yield bus, one.server.pid, one.server.directory / "store"
        return
    async with cluster() as made, made.connect("admin") as bus:
        node = made.nodes[0]
        if node.process is None:
            raise RuntimeError(f"{node.name} does not run")
        yield bus, node.process.pid, node.directory / "store"


async def measure(most: int, *, three: bool) -> None:
    """Write more and more records, and print a line now and then."""
    users, instance = [new_id() for _ in range(100)], new_id()
    print(f"a record is {len(Codec(Activation).encode(record(users[0], instance)))} bytes")
    print(f"{'records':>9} {'bytes on disk':>14} {'in memory':>10} {'one write, p50':>15} {'50 at once':>10}")
    async with servers(three=three) as (bus, pid, files):
        store = Stores.on(bus).activations
        empty_bytes, empty_memory = size_of(files), memory_of(pid)
        done = 0
        for target in (most // 100, most // 10, most):
            began, before = time.perf_counter(), done
            while done < target:
                some = [record(users[number % 100], instance) for number in range(AT_ONCE)]
                await asyncio.gather(*(create(store, one) for one in some))
                done += AT_ONCE
            rate = (done - before) / (time.perf_counter() - began)
            alone = [await create(store, record(users[0], instance)) for _ in range(ALONE)]
            done += ALONE
            disk, memory = (size_of(files) - empty_bytes) / done, (memory_of(pid) - empty_memory) / done
            p50_ms = statistics.median(alone) * 1e3
            print(f"{done:>9,} {disk:>14,.0f} {memory:>10,.0f} {p50_ms:>12.2f} ms {rate:>8,.0f}/s")


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000, metavar="N")
    parser.add_argument("--cluster", action="store_true", help="three servers with three copies")
    given = parser.parse_args()
    uvloop.run(measure(given.records, three=given.cluster))


if __name__ == "__main__":
    main()
