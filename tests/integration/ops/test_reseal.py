"""`mayfly secrets reseal`, and backups of what is sealed, on a real nats-server."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mayfly.bus import subjects
from mayfly.bus.store import Store
from mayfly.bus.stores import Stores
from mayfly.domain.errors import QueueUnavailable, SecretUnavailable
from mayfly.domain.ids import UserId, new_id
from mayfly.domain.registry import OpenedCredentials
from mayfly.domain.secret import Delivery
from mayfly.ops.backup import CHECKSUM, MANIFEST, SEALED, _checksum, backup, restore
from mayfly.ops.reseal import reseal
from mayfly.services.functions import Functions
from mayfly.services.registries import Registries
from mayfly.services.secrets import Secrets
from mayfly.worker.secrets import credentials_finder, open_secrets
from tests.docs.reader import prints
from tests.integration.bus.test_store import a_function
from tests.support.backup import mayfly
from tests.support.bus import installation
from tests.support.page import commands, printed
from tests.support.sealing import SealingKeys

PAGE = "docs/howto/rotate-keys.md"

pytestmark = [pytest.mark.F4, pytest.mark.A4, pytest.mark.D7]


class Installed:
    """An installation whose user has a function with two secrets, and an account at a registry."""

    def __init__(self, made: Any, bus: Any, keys: SealingKeys) -> None:
        self.made, self.bus, self.keys, self.stores = made, bus, keys, Stores.on(bus)
        self.user = UserId(new_id())
        self.function = a_function(self.user)

    async def fill(self) -> None:
        """Set everything."""
        await self.stores.functions.create(self.function.key, self.function)
        secrets = Secrets(self.stores, Functions(self.bus, self.stores), self.keys.sealer)
        await secrets.put(self.user, self.function.name, "A", b"one", Delivery.ENVIRONMENT)
        await secrets.put(self.user, self.function.name, "B", b"two", Delivery.FILE)
        registries = Registries(self.stores, self.keys.sealer)
        await registries.put(self.user, "ghcr.io", username="ann", password="three")

    async def opened(self, bus: Any = None) -> tuple[dict[str, bytes], OpenedCredentials | None]:
        """What a worker with the keys of now reads there."""
        stores = Stores.on(bus or self.bus)
        entry = await stores.functions.get(self.function.key)
        assert entry
        secrets = await open_secrets(stores, self.keys.opener, entry.value)
        password = await credentials_finder(stores, self.keys.opener)(self.user, "ghcr.io")
        return {one.key: one.value for one in secrets}, password


ALL = ({"A": b"one", "B": b"two"}, OpenedCredentials(username="ann", password="three"))


@asynccontextmanager
async def installed(keys: SealingKeys) -> AsyncIterator[Installed]:
    """Start and fill one."""
    async with installation() as made, made.connect("admin") as bus:
        system = Installed(made, bus, keys)
        await system.fill()
        yield system


async def test_resealed_the_old_key_is_not_needed_any_more(tmp_path: Path) -> None:
    """The page's command seals all anew, says what can be removed, and then the newest key alone opens it all."""
    keys = SealingKeys(tmp_path)
    async with installed(keys) as system:
        [old] = keys.kids
        new = keys.add(f"{old}-z")
        (typed,) = commands(PAGE, "The sealing key")
        words = typed.replace("./secrets/worker/sealing-keys", str(keys.private)).split()
        status, said, complained = await (await mayfly(system.made, *words[1:])).ended()
        assert status == 0, complained
        assert prints(printed(PAGE, "The sealing key")[0], said), said
        assert f"sealed 3 anew with {new}" in said
        assert f"NEXT remove {old}.pem" in said
        assert b"one" not in said.encode()

        keys.forget(old)
        assert await system.opened() == ALL
        assert await reseal(system.bus, keys.private) == [f"sealed 0 anew with {new}"]


@pytest.mark.parametrize(("whole", "last_is_made"), [(0, True), (1, False), (2, True)])
async def test_who_was_interrupted_goes_on(
    whole: int, last_is_made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended after any write, or in one whose answer was lost, all can be opened; run again, it seals the rest."""
    keys = SealingKeys(tmp_path)
    writes, update = 0, Store.update

    async def broken(store: Store[Any], *args: Any, **more: Any) -> int:
        nonlocal writes
        writes += 1
        if writes > whole:
            if last_is_made:
                await update(store, *args, **more)
            raise QueueUnavailable
        return await update(store, *args, **more)

    async with installed(keys) as system:
        [old] = keys.kids
        new = keys.add(f"{old}-z")
        with monkeypatch.context() as interrupted:
            interrupted.setattr(Store, "update", broken)
            with pytest.raises(QueueUnavailable):
                await reseal(system.bus, keys.private)
        assert await system.opened() == ALL
        assert (await reseal(system.bus, keys.private))[0] == f"sealed {3 - whole - last_is_made} anew with {new}"
        keys.forget(old)
        assert await system.opened() == ALL


async def test_what_nobody_can_open_is_left_and_said(tmp_path: Path) -> None:
    """Without the old key nothing is changed, each is named, and the status is not 0; with it back all is well."""
    keys = SealingKeys(tmp_path)
    async with installed(keys) as system:
        [old] = keys.kids
        content = (keys.private / f"{old}.pem").read_bytes()
        keys.add(f"{old}-z")
        keys.forget(old)
        status, said, _ = await (await mayfly(system.made, "secrets", "reseal", keys.private)).ended()
        assert status == 6
        assert said.count("NOT DONE") == 3
        assert f"secret A of function {system.function.name} of user {system.user}" in said
        with pytest.raises(SecretUnavailable):
            await system.opened()

        (keys.private / f"{old}.pem").write_bytes(content)
        assert await system.opened() == ALL


async def test_what_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    """One damaged entry is named, by its key, and keeps the old key needed; everything else is sealed anew."""
    keys = SealingKeys(tmp_path)
    async with installed(keys) as system:
        [old] = keys.kids
        new = keys.add(f"{old}-z")
        damaged = f"{new_id()}.broken"
        await system.bus.js.publish(subjects.kv_subject(subjects.FUNCTIONS, damaged), b"\xff")

        said = await reseal(system.bus, keys.private)

        assert said[0] == f"sealed 3 anew with {new}"
        assert [line.split(":")[0] for line in said[1:]] == [f"NOT DONE {damaged}"]
        keys.forget(old)
        assert await system.opened() == ALL


async def test_a_backup_brings_back_what_is_sealed(tmp_path: Path) -> None:
    """Saved as it is and restored elsewhere, it opens with the same keys; the file has no value in the clear."""
    keys = SealingKeys(tmp_path / "keys")
    file = tmp_path / "mayfly.tar"
    async with installed(keys) as system, installation() as other, other.connect("admin") as elsewhere:
        await backup(system.bus, file)
        await restore(elsewhere, file)

        assert await system.opened(elsewhere) == ALL


async def test_a_backup_from_before_there_were_secrets_is_restored(tmp_path: Path) -> None:
    """It has neither bucket, and what was in them here goes, as all that was here does."""
    keys = SealingKeys(tmp_path / "keys")
    file, older = tmp_path / "mayfly.tar", tmp_path / "older.tar"
    async with installed(keys) as system:
        await backup(system.bus, file)
        _without(file, older)

        await restore(system.bus, older, replace_all=True)

        for stream in SEALED:
            assert (await system.bus.js.stream_info(stream)).state.messages == 0
        assert (await system.bus.js.stream_info(subjects.kv_stream(subjects.FUNCTIONS))).state.messages == 1


def _without(file: Path, older: Path) -> None:
    """Write a backup as it was before: without the parts that are sealed."""
    with tarfile.open(file) as source, tarfile.open(older, "w", format=tarfile.GNU_FORMAT) as target:
        for member in source.getmembers():
            content = source.extractfile(member)
            assert content
            if member.name in (MANIFEST, CHECKSUM):
                continue
            if member.name.removesuffix(".snapshot") not in SEALED:
                target.addfile(member, content)
        kept = source.extractfile(MANIFEST)
        assert kept
        manifest = msgspec.json.decode(kept.read())
        manifest["parts"] = [part for part in manifest["parts"] if part["stream"] not in SEALED]
        encoded = msgspec.json.encode(manifest)
        for name, data in ((MANIFEST, encoded), (CHECKSUM, _checksum(encoded))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            target.addfile(member, io.BytesIO(data))
