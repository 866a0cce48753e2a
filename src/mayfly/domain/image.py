"""What an image says about the process it wants to run."""

from __future__ import annotations

import msgspec

from mayfly.domain.stored import StoredDigest, StoredUserId, Word


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The image's own configuration, resolved against its root file system (so `uid` is a number, not a name)."""

    entrypoint: tuple[Word, ...] = ()
    cmd: tuple[Word, ...] = ()
    env: tuple[tuple[Word, Word], ...] = ()
    cwd: Word = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()

    def command_line(self, command: tuple[str, ...] | None, args: tuple[str, ...] | None) -> tuple[str, ...]:
        """
        Combine with what a function's registration says, by Kubernetes' rule.

        `command` replaces the entrypoint (and drops the image's cmd), `args` replaces the cmd.
        """
        if command is not None:
            return command + (args or ())
        return self.entrypoint + (self.cmd if args is None else args)


class PrepareImage(msgspec.Struct, frozen=True, kw_only=True):
    """Asks a worker to resolve a reference for a user, pin its digest, and have that image there."""

    v: int = 1
    reference: str
    owner: StoredUserId
    digest: StoredDigest | None = None
    """What another worker has resolved it to: that is fetched, and nothing is done where it is."""


class ImageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker answers: the digest and what the image runs, or why it cannot be had."""

    v: int = 1
    digest: StoredDigest | None = None
    process: ProcessConfig = ProcessConfig()
    code: str | None = None
    problem: str | None = None
