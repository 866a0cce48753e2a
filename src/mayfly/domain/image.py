"""What an image says about the process it wants to run."""

from __future__ import annotations

import msgspec


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The image's own configuration, resolved against its root file system (so `uid` is a number, not a name)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
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
