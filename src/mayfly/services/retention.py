"""
Bounding what is kept of each user's results and logs: so much a user, and his own oldest go first. Rows: F4, F10.

Without it the stream's own bound would be everybody's: who has many large results would push out all others'. Nor may
many users together: when the stream is nearly full, whoever has the most gives up his oldest, until all have room.

Each API server has a keeper, which hears the size of every response as the stream takes it, whichever server its
caller waits at, and adds up by user. What it adds up is small: pairs of a sequence and the bytes up to it, one for each
`CHUNK_BYTES`. A server that has just started reads a user's books when it first hears of him; they are written by the
server at which he calls, whenever a chunk is full.

Guarantees:
- several keepers do no harm: each removes a user's responses up to a sequence, and what is gone is gone;
- what was not heard (an outage, a slow consumer) is missing from the sequences, and read;
- when the sequences begin anew, as after a restore, what was added up of the stream that was is forgotten;
- what the books of a server that was killed lack is what came in its last moment, less than a chunk of each user, and
  what came while none ran.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import structlog

from mayfly.bus.connection import Bus
from mayfly.bus.retention import (
    Books,
    Chunk,
    Fullness,
    Kept,
    drop_responses,
    hearing_kept,
    read_books,
    read_fullness,
    read_kept,
    users_with_books,
    write_books,
)
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.limits import MIB

log = structlog.get_logger()

CHUNK_BYTES = 256 << 10
BESIDE_BODY_BYTES = 300  # of a stored message: subject, headers, and what the file has around them
DROPS_TO = 7 / 8  # of the bound, so that a purge comes once in a while and not with each response
USERS_AT_MOST = 10_000  # in memory; of the others the books are read again
MISSED_AT_MOST = 2_000  # messages read after an outage, the newest
NEARLY_FULL = 0.8  # of the stream's bound: beyond it the largest are made to give up something
LOOKS_IN = 64  # parts of the stream's bound: so much that came, and it is looked at how full it is
LEFT_ALONE_BYTES = 1 * MIB  # who has no more than that gives up nothing: the stream's own oldest go, then
RETRY_S = 1.0


class Tally:
    """What one user has in the stream."""

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        """Begin with what the books say."""
        self._chunks = deque(chunks)
        self._in_books_to = self._chunks[-1].last_seq if self._chunks else 0
        self.size = sum(chunk.size for chunk in self._chunks)
        self.unwritten = 0  # bytes since the books were written

    def add(self, kept: Kept) -> None:
        """Count one response, unless the books have it."""
        if kept.seq <= self._in_books_to:
            return
        size = kept.size + BESIDE_BODY_BYTES
        if not self._chunks or self._chunks[-1].size >= CHUNK_BYTES:
            self._chunks.append(Chunk(kept.seq, 0))
        last = self._chunks[-1]
        last.last_seq = max(last.last_seq, kept.seq)
        last.size += size
        self.size += size
        self.unwritten += size

    def beyond(self, max_bytes: int) -> int | None:
        """Say up to which sequence it has to go, so that no more is left than may be; None when all may stay."""
        if self.size <= max_bytes:
            return None
        left, last_seq = self.size, None
        for chunk in self._chunks:
            if left <= max_bytes * DROPS_TO:
                break
            left, last_seq = left - chunk.size, chunk.last_seq
        return last_seq

    def dropped(self, up_to_seq: int) -> None:
        """Forget what was removed."""
        while self._chunks and self._chunks[0].last_seq <= up_to_seq:
            self.size -= self._chunks.popleft().size

    def books(self) -> Books:
        """Write down what there is."""
        return Books(chunks=list(self._chunks))


class Keeper:
    """One keeper, of one API server."""

    def __init__(self, bus: Bus, instance: str, *, max_bytes: int, keep_s: float) -> None:
        """*instance* is this API server, *max_bytes* what each user may have, *keep_s* how long responses live."""
        self._bus = bus
        self._instance = instance
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._tallies: OrderedDict[str, Tally] = OrderedDict()
        self._heard: defaultdict[str, list[Kept]] = defaultdict(list)
        self._missed: deque[int] = deque(maxlen=MISSED_AT_MOST)
        self._last_seq = 0
        self._look_after = 0.0  # so many bytes more
        self._news = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear of every response, for the life of the server."""
        async with hearing_kept(self._bus, self._on_kept):
            yield

    async def run(self) -> None:
        """Add up and remove, for ever; what NATS does not take now it is offered again."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.settle()
            except QueueUnavailable as error:
                log.info("retention.waiting", reason=error.detail)
                await asyncio.sleep(RETRY_S)
                self._news.set()

    async def settle(self) -> None:
        """
        Count what was heard, and remove what is too much.

        Raises: QueueUnavailable; what was not done then is done the next time.
        """
        await self._read_missed()
        heard = self._heard
        for user_id in list(heard):
            tally = await self._tally_of(user_id)
            if heard is not self._heard:  # forgotten meanwhile; what came since sets `_news` again
                return
            kept = heard.pop(user_id)
            for each in kept:
                tally.add(each)
                self._look_after -= each.size
            await self._bound(user_id, tally, self._max_bytes)
            if tally.unwritten >= CHUNK_BYTES and any(each.instance == self._instance for each in kept):
                await write_books(self._bus, user_id, tally.books(), keep_s=self._keep_s)
                tally.unwritten = 0
        if self._look_after <= 0:
            await self._make_room()

    def _on_kept(self, kept: Kept) -> None:
        if kept.seq <= self._last_seq:
            self._forget()
        elif self._last_seq:
            self._missed.extend(range(max(self._last_seq + 1, kept.seq - MISSED_AT_MOST), kept.seq))
        self._last_seq = kept.seq
        self._note(kept)

    def _forget(self) -> None:
        """
        Forget the stream that was: by its higher sequences, results of the one that is would be removed. In new
        containers, since `settle` may be waiting in the middle of the old ones.
        """
        self._tallies, self._heard, self._missed = OrderedDict(), defaultdict(list), deque(maxlen=MISSED_AT_MOST)
        log.info("retention.began-anew")

    def _note(self, kept: Kept) -> None:
        if kept.is_response:
            self._heard[kept.user_id].append(kept)
        self._news.set()

    async def _read_missed(self) -> None:
        missed = self._missed
        while missed:
            seq = missed.popleft()
            try:
                kept = await read_kept(self._bus, seq)
            except QueueUnavailable:
                missed.appendleft(seq)
                raise
            if kept and missed is self._missed:
                self._note(kept)

    async def _tally_of(self, user_id: str) -> Tally:
        tallies = self._tallies
        tally = tallies.get(user_id)
        if tally is None:
            tally = Tally((await read_books(self._bus, user_id)).chunks)
            if len(tallies) >= USERS_AT_MOST:
                tallies.popitem(last=False)
        tallies[user_id] = tally
        tallies.move_to_end(user_id)
        return tally

    async def _make_room(self) -> None:
        """
        While the stream is nearly full, take the oldest of whoever has the most: who has little loses nothing. After
        each it is looked again how full it is, as what was added up is too much where responses have expired.
        """
        fullness = await read_fullness(self._bus)
        self._look_after = (fullness.max_bytes or math.inf) / LOOKS_IN
        if not _is_nearly_full(fullness):
            return
        for user_id in await users_with_books(self._bus):
            await self._tally_of(user_id)
        tallies = self._tallies
        while _is_nearly_full(await read_fullness(self._bus)):
            user_id, tally = max(tallies.items(), key=lambda item: item[1].size)
            if tally.size <= LEFT_ALONE_BYTES:
                break
            await self._bound(user_id, tally, tally.size - 1)

    async def _bound(self, user_id: str, tally: Tally, max_bytes: int) -> None:
        up_to_seq = tally.beyond(max_bytes)
        if up_to_seq is None:
            return
        before = tally.size
        await drop_responses(self._bus, user_id, up_to_seq=up_to_seq)
        tally.dropped(up_to_seq)
        log.info("retention.dropped", user=user_id, bytes=before - tally.size, kept_bytes=tally.size)


def _is_nearly_full(fullness: Fullness) -> bool:
    return fullness.size_bytes > (fullness.max_bytes or math.inf) * NEARLY_FULL
