"""The command `mayfly` in a process of its own: with pipes, as programs call it, or at a terminal, as people do."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WAIT_S = 30

PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Ended:
    """How one run ended."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> Any:
        """What was written to stdout, as JSON."""
        return json.loads(self.stdout)


@dataclass
class AtTerminal:
    """A run at a pseudo terminal: it is stdin and stderr, and stdout where nothing else is asked for."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    descriptor: int
    shown: str = ""

    async def until(self, text: str) -> None:
        """Wait until the screen has shown *text*."""
        async with asyncio.timeout(WAIT_S):
            while text not in self.shown:
                self.shown += (await self.reader.read(4096)).decode()

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.descriptor, text.encode())

    async def ended(self) -> int:
        """Wait for the end and read what is left."""
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(OSError):  # Linux ends a terminal whose other side is gone with EIO
                while more := await self.reader.read(4096):
                    self.shown += more.decode()
            return await self.process.wait()


@dataclass
class Mayfly:
    """One person's command line: an environment, and a directory for logins."""

    url: str
    ca_file: Path
    config_dir: Path
    environment: dict[str, str] = field(default_factory=dict)

    def with_(self, **environment: str) -> Mayfly:
        """The same with other variables; an empty one is not set."""
        return Mayfly(self.url, self.ca_file, self.config_dir, {**self.environment, **environment})

    async def __call__(self, *arguments: str | bytes, stdin: bytes = b"") -> Ended:
        """Run it to its end."""
        process = await self.start(*arguments, stdin=asyncio.subprocess.PIPE)
        async with asyncio.timeout(WAIT_S):
            stdout, stderr = await process.communicate(stdin)
        return Ended(process.returncode or 0, stdout, stderr.decode())

    async def shell(self, script: str, directory: Path) -> tuple[int, str]:
        """Have a shell carry out a script; return its status and what was said, stdout and stderr as they come."""
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-euo",
            "pipefail",
            "-c",
            script,
            cwd=directory,
            env=self._env(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(5 * WAIT_S):
            said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    async def start(self, *arguments: str | bytes, **options: Any) -> asyncio.subprocess.Process:
        """Start it, with stdout and stderr as pipes unless *options* say otherwise."""
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mayfly", *arguments, env=self._env(), **(pipes | options)
        )

    @asynccontextmanager
    async def at_terminal(self, *arguments: str, **options: Any) -> AsyncIterator[AtTerminal]:
        """Start it at a terminal of its own."""
        ours, theirs = pty.openpty()
        terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        try:
            process = await self.start(*arguments, **(terminal | options), preexec_fn=_own_terminal)
        finally:
            os.close(theirs)
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
        )
        try:
            yield AtTerminal(process, reader, ours)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            transport.close()

    @property
    def login_file(self) -> Path:
        """Where logins are kept."""
        return self.config_dir / "logins.json"

    def login(self) -> dict[str, Any]:
        """The login that is kept for this installation."""
        found: dict[str, Any] = json.loads(self.login_file.read_text())["logins"][self.url]
        return found

    def change_login(self, **tokens: object) -> None:
        """Change what is kept of the tokens."""
        kept = json.loads(self.login_file.read_text())
        kept["logins"][self.url]["tokens"].update(tokens)
        self.login_file.write_text(json.dumps(kept))

    def _env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        ours = {
            "MAYFLY_URL": self.url,
            "MAYFLY_CA_FILE": str(self.ca_file),
            "MAYFLY_CONFIG_DIR": str(self.config_dir),
            "TERM": "xterm",
            "COLUMNS": "100",
            "PYTHONUNBUFFERED": "",  # as users have it
        }
        return {name: value for name, value in (inherited | ours | self.environment).items() if value}


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
