"""Sealing keys of a test's own, in the two directories that an API server and a worker have."""

from __future__ import annotations

from pathlib import Path

from mayfly.domain.ids import new_ulid
from mayfly.ops.certificates import public_pem
from mayfly.ops.sealing_keys import new_sealing_key
from mayfly.services.sealing import Opener, Sealer


class SealingKeys:
    """The keys of one installation; there is one at the start."""

    def __init__(self, directory: Path) -> None:
        self.private, self.public = directory / "private", directory / "public"
        for path in (self.private, self.public):
            path.mkdir(parents=True, exist_ok=True)
        if not self.kids:  # a second server of one directory has the first one's
            self.add()

    def add(self, kid: str | None = None) -> str:
        """Make a key, which seals from now on, and return its id."""
        kid, key = kid or new_ulid(), new_sealing_key()
        (self.private / f"{kid}.pem").write_bytes(key)
        (self.public / f"{kid}.pub.pem").write_bytes(public_pem(key))
        return kid

    def forget(self, kid: str) -> None:
        """Lose the private half of a key."""
        (self.private / f"{kid}.pem").unlink()

    @property
    def kids(self) -> list[str]:
        """All keys that can open, the newest last."""
        return sorted(path.stem for path in self.private.iterdir())

    @property
    def sealer(self) -> Sealer:
        """An API server's half."""
        return Sealer.load(self.public)

    @property
    def opener(self) -> Opener:
        """A worker's half."""
        return Opener.load(self.private)
