"""The frame, and the held init that reads it: spoken to here without a container around it."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mayfly.containers import frame
from mayfly.containers.native import build as native
from mayfly.containers.runtime import Call
from mayfly.domain.errors import RuntimeFailed

ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # a seccomp program of one instruction: return ALLOW


@dataclass
class Init:
    """A held init, and our end of its control socket."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    def answer(self) -> frame.Report | None:
        """What it reports; None when it ends without a word."""
        return frame.decode(self.control.recv(64))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The init, compiled from its source."""
    return native.build(tmp_path_factory.mktemp("bin"))[1]


@contextmanager
def held(program: Path) -> Iterator[Init]:
    """An init that has said that it is ready."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    # The shell moves the socket to descriptor 3, as the spawner's parent does.
    command = ["/bin/bash", "-c", f'exec 3<&{theirs.fileno()} {theirs.fileno()}<&-; exec "$0"', str(program)]
    with subprocess.Popen(
        command, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        theirs.close()
        assert ours.recv(1) == frame.READY
        try:
            yield Init(process, ours)
        finally:
            ours.close()
            process.kill()


def header(*, protocol: int = 1, argc: int = 1, envc: int = 0, strings: int = 5, filter_: int = 8) -> bytes:
    """A frame's header, as given."""
    return struct.pack("=5I", protocol, argc, envc, strings, filter_)


def test_a_frame_is_this() -> None:
    """Compared literally with what the C program reads."""
    call = Call(argv=("cat", "-u"), env=(("A", "b"),))
    assert frame.encode(call, b"12345678") == struct.pack("=5I", 1, 2, 1, 11, 8) + b"cat\0-u\0A=b\0" + b"12345678"


@pytest.mark.parametrize(
    "call",
    [Call(argv=()), Call(argv=("a\0b",)), Call(argv=("a",), env=(("A", "b\0"),)), Call(argv=("a",) * 70_000)],
)
def test_what_fits_no_frame_is_refused(call: Call) -> None:
    """Nothing to run, NUL, too many: nothing ran."""
    with pytest.raises(RuntimeFailed) as caught:
        frame.encode(call, ALLOW_ALL)
    assert caught.value.ran == "no"


def test_a_command_runs_and_is_reported(program: Path) -> None:
    """Output is the command's; the report is its exit code, also by signal."""
    with held(program) as init:
        init.control.sendall(frame.encode(Call(argv=("sh", "-c", "echo $A; exit 3"), env=(("A", "x"),)), ALLOW_ALL))
        report = init.answer()
        assert report == frame.Report(frame.EXITED, 3)
        assert init.process.stdout is not None
        assert init.process.stdout.read() == b"x\n"
    with held(program) as init:
        init.control.sendall(frame.encode(Call(argv=("sh", "-c", "kill -9 $$")), ALLOW_ALL))
        report = init.answer()
        assert report is not None
        assert (report.kind, report.exit_code) == (frame.SIGNALLED, 137)


MALFORMED = {
    "another protocol": (header(protocol=2), errno.EPROTONOSUPPORT),
    "nothing to run": (header(argc=0), errno.EBADMSG),
    "too many arguments": (header(argc=70_000), errno.EBADMSG),
    "too many variables": (header(envc=70_000), errno.EBADMSG),
    "too long": (header(strings=(4 << 20) + 1), errno.EBADMSG),
    "no filter": (header(filter_=0), errno.EBADMSG),
    "half an instruction": (header(filter_=12), errno.EBADMSG),
    "a filter too long": (header(filter_=8 * 4097), errno.EBADMSG),
    "enormous": (struct.pack("=5I", 1, *[0xFFFFFFFF] * 4), errno.EBADMSG),
    "an argument without an end": (header() + b"true!" + ALLOW_ALL, errno.EBADMSG),
    "fewer strings than said": (header(argc=2) + b"true\0" + ALLOW_ALL, errno.EBADMSG),
    "more strings than said": (header(strings=7) + b"true\0x\0" + ALLOW_ALL, errno.EBADMSG),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_frame_is_refused_and_nothing_runs(program: Path, case: str) -> None:
    """The report says why, and the init ends."""
    message, why = MALFORMED[case]
    with held(program) as init:
        init.control.sendall(message)
        assert init.answer() == frame.Report(frame.REFUSED, why)
        assert init.process.wait(10) == 125


@pytest.mark.parametrize("part", [b"", header()[:7], header() + b"tr", header() + b"true\0" + ALLOW_ALL[:3]])
def test_a_frame_cut_short_runs_nothing(program: Path, part: bytes) -> None:
    """When the worker is gone before the frame is whole, the init goes too, without a word."""
    with held(program) as init:
        init.control.sendall(part)
        init.control.shutdown(socket.SHUT_WR)
        assert init.answer() is None
        assert init.process.wait(10) == 125


def test_a_filter_that_the_kernel_refuses_runs_nothing(program: Path) -> None:
    """Without its filter no function starts."""
    with held(program) as init:
        init.control.sendall(frame.encode(Call(argv=("echo", "x")), b"\xff" * 8))
        assert init.answer() == frame.Report(frame.EXITED, 125)
        assert init.process.stdout is not None
        assert init.process.stdout.read() == b""
        assert init.process.stderr is not None
        assert b"mayfly: cannot confine the function" in init.process.stderr.read()


def test_reports_of_another_length_are_none() -> None:
    """What an init that was killed leaves is no report."""
    assert frame.decode(b"") is None
    assert frame.decode(b"123") is None
