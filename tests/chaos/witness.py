"""
The witness: a mark outside for every start of a function's command, and for its end.

The command (`witness.c`) connects to a socket of ours as its first act. The socket is mounted into each container by
what stands in the place where MAYFLY_LAUNCHER_DIR lets an operator put something: with crun a program before
mayfly-spawn, with native the launcher with that one mount more. Nothing else is changed of the product. One socket for
each worker, so a mark also says whose container it came from.

Exact: a run that got as far as its first system call after its parameter has a mark with activation and token, also if
it, its worker or the whole installation is killed at once: what it wrote is in our socket by then. The kernel closes
the connection of whoever dies, so an end is seen as well.

Limits: a command that was killed between its exec and that call has done nothing and is not seen. The end of one that
was killed is seen up to `POLL_S` late; therefore `alive_until` is the last time at which the connection certainly was
open, and never later than the truth.
"""

from __future__ import annotations

import selectors
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from mayfly.containers.native.build import HERE as NATIVE
from mayfly.containers.programs import BUILT, INIT, LAUNCH, SPAWN, USERNS
from tests.chaos.history import Run

HERE = Path(__file__).parent
POLL_S = 0.02
BACKLOG = 4096


@dataclass
class _Mark:
    """One connection: one run."""

    worker: str
    received: bytearray = field(default_factory=bytearray)
    activation: str = ""
    token: str = ""
    began_at: float = 0.0
    alive_until: float = 0.0
    is_over: bool = False

    def take(self, data: bytes) -> None:
        """Read what the command says of itself."""
        self.received += data
        while b"\n" in self.received:
            line, _, rest = self.received.partition(b"\n")
            self.received = rest
            what, activation, token, at_ns = line.decode().split(" ")
            at = int(at_ns) / 1e9
            if what == "begin":
                self.activation, self.token, self.began_at = activation, token, at
            self.alive_until = max(self.alive_until, at)

    def run(self) -> Run:
        return Run(
            activation=self.activation,
            token=self.token,
            worker=self.worker,
            began_at=self.began_at,
            alive_until=self.alive_until,
            is_over=self.is_over,
        )


class Witness:
    """Listens, in a thread of its own, on one socket for each worker; a context manager."""

    def __init__(self, directory: Path, workers: tuple[str, ...]) -> None:
        """*directory* is for the programs and the sockets; others than root can enter it."""
        self.directory = directory
        self._selector = selectors.DefaultSelector()
        self._marks: list[_Mark] = []
        self._open: dict[socket.socket, _Mark] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._listen, name="witness", daemon=True)
        for worker in workers:
            self._bind(worker)
        self.program = directory / "witness"
        _compile(HERE / "witness.c", self.program, "-static")

    def launcher_dir(self, worker: str) -> Path:
        """Make what MAYFLY_LAUNCHER_DIR of this worker is."""
        directory = self.directory / f"launcher-{worker}"
        directory.mkdir()
        for name in (INIT, USERNS):
            shutil.copy(BUILT / name, directory / name)
        _compile(
            HERE / "spawn_with_witness.c",
            directory / SPAWN,
            f'-DSOCKET="{self.socket_of(worker)}"',
            f'-DSPAWN="{BUILT / SPAWN}"',
        )
        _compile(
            HERE / "launch_with_witness.c",
            directory / LAUNCH,
            "-static",
            f'-DSOCKET="{self.socket_of(worker)}"',
            f'-DLAUNCH="{NATIVE / "launch.c"}"',
        )
        return directory

    def socket_of(self, worker: str) -> Path:
        """Where the commands in a worker's containers arrive."""
        return self.directory / f"{worker}.socket"

    def runs(self) -> list[Run]:
        """
        Every run so far.

        Raises: RuntimeError when the witness itself has failed.
        """
        if self._failure is not None:
            raise RuntimeError("the witness has failed, so nothing is proved") from self._failure
        with self._lock:
            return [mark.run() for mark in self._marks if mark.activation]

    def plant(self, run: Run) -> None:
        """Run a call's command once more, outside any container: a double run, as far as anybody can see."""
        subprocess.run(
            [self.program, self.socket_of(run.worker)],
            input=f"{run.token} 0 0 0".encode(),
            env={"MAYFLY_ACTIVATION_ID": run.activation},
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def __enter__(self) -> Witness:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        self._stopping = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _bind(self, worker: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.socket_of(worker)))
        self.socket_of(worker).chmod(0o666)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, worker)

    def _listen(self) -> None:
        try:
            while not self._stopping:
                self._look()
        except BaseException as failure:  # noqa: BLE001 - told to whoever asks for the runs
            self._failure = failure

    def _look(self) -> None:
        looked_at = time.monotonic()
        ready = self._selector.select(POLL_S)
        with self._lock:
            for connection in self._open.keys() - {key.fileobj for key, _ in ready}:
                mark = self._open[connection]
                if mark.activation:
                    mark.alive_until = max(mark.alive_until, looked_at)
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                if isinstance(key.data, str):
                    self._accept(key.fileobj, key.data)
                else:
                    self._receive(key.fileobj, key.data)

    def _accept(self, listener: socket.socket, worker: str) -> None:
        connection, _ = listener.accept()
        mark = _Mark(worker)
        self._marks.append(mark)
        self._open[connection] = mark
        self._selector.register(connection, selectors.EVENT_READ, mark)

    def _receive(self, connection: socket.socket, mark: _Mark) -> None:
        try:
            data = connection.recv(4096)
        except ConnectionResetError:
            data = b""
        if data:
            mark.take(data)
            return
        mark.is_over = True
        del self._open[connection]
        self._selector.unregister(connection)
        connection.close()


def expected(token: str, length: int) -> bytes:
    """What a run with this token writes to stdout."""
    line = f"{token}\n".encode()
    return (line * (length // len(line) + 1))[:length]


def _compile(source: Path, program: Path, *options: str) -> None:
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", *options, "-o", program, source], check=True)
    program.chmod(0o755)
