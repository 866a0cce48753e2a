"""What an operator ends of somebody else's, whatever lies in the database."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from mayfly.api.state import ApiState
from mayfly.bus import subjects
from mayfly.bus.queue import WORK
from mayfly.domain.activation import Activation
from mayfly.domain.ids import UserId, UserName, new_ulid
from mayfly.services.operators import Ended
from tests.support.api import PASSWORD, bootstrapped, in_process
from tests.support.nats import NatsServer
from tests.unit.worker.test_call import some_work

pytestmark = pytest.mark.F3

ANN, ROOT = UserName("ann"), UserName("root")


async def queued(state: ApiState, owner: UserId) -> Activation:
    """Have a call in flight that no worker has claimed."""
    like = some_work()
    record = replace(like.record, user_id=owner, ulid=new_ulid())
    function = replace(like.function, user_id=owner)
    work = replace(like, user_id=owner, ulid=record.ulid, record=record, function=function)
    await state.stores.activations.create(record.key, record, ttl_s=600)
    await state.bus.js.publish(subjects.act(owner), WORK.encode(work))
    return record


async def test_a_record_that_nobody_can_read_keeps_no_account(tmp_path: Path) -> None:
    """All others are ended, and the account can be deleted: a worker that is not to be trusted writes such a record."""
    async with NatsServer() as nats:
        await bootstrapped(nats.url)
        async with in_process(nats.url, tmp_path) as (state, _):
            root, ann = [await state.users.register(name, PASSWORD) for name in (ROOT, ANN)]
            login = (await state.sessions.log_in(root.name, PASSWORD)).session
            records = [await queued(state, ann.id) for _ in range(3)]
            await state.bus.js.publish(subjects.kv_subject(subjects.ACTIVATIONS, records[0].key), b"\xc1 junk")

            assert await state.operators.end_all(ANN) == Ended(ended=2, going_on=1)
            await state.operators.delete(ANN, login)
            assert await state.stores.users.get(ANN) is None
