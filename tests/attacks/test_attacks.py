"""Each attack through the API, while somebody else goes on calling."""

from __future__ import annotations

import asyncio

import pytest

from examples.oci import push
from tests.attacks.arena import Arena
from tests.attacks.catalogue import ATTACKS, Attack
from tests.attacks.images import HOSTILE
from tests.attacks.report import Row

pytestmark = [pytest.mark.root, pytest.mark.F9]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.slug)
async def test_an_attack_ends_as_it_should_and_no_neighbour_notices(
    attack: Attack, arena: Arena, registry: str, rows: list[Row], calls: int
) -> None:
    """
    It has its own documented ending, nothing of it is left, the API is ready, and another user's calls have no error
    and their own results. How much longer those take is measured, not judged.
    """
    if attack.image:
        arena.hostile[attack.image] = f"{registry}/{attack.image}:1"
        await asyncio.to_thread(push, HOSTILE[attack.image](), arena.hostile[attack.image])

    alone, beside = await arena.attack(attack, calls=calls)

    rows.append(Row(attack=attack, alone=alone, beside=beside))
    assert (alone.errors, beside.errors) == ([], [])
