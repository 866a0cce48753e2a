"""Writing results: whole, whatever stdout is like."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from mayfly.cli.output import columns, pairs, size, write_bytes

BIG = "from mayfly.cli.output import write_bytes; write_bytes(b'y' * (1 << 20))"


@pytest.mark.F8
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_is_written_whole(unbuffered: str) -> None:
    """1 MiB through a pipe of 64 KiB arrives, with Python's buffer and without."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    ended = subprocess.run([sys.executable, "-c", BIG], env=environment, capture_output=True, check=True, timeout=30)

    assert ended.stdout == b"y" * (1 << 20)


@pytest.mark.F8
def test_a_stream_that_takes_parts_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that took a part is followed by another with the rest."""

    class Narrow(io.RawIOBase):
        taken = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            part = bytes(data)[:3]  # type: ignore[call-overload]
            self.taken += part
            return len(part)

    narrow = Narrow()
    monkeypatch.setattr(sys, "stdout", type("Stdout", (), {"buffer": narrow}))
    write_bytes(b"all of it")

    assert narrow.taken == b"all of it"


def test_a_table_is_as_wide_as_it_needs_to_be() -> None:
    """Columns are aligned, what is not there is a dash, and no line ends in blanks."""
    assert columns(("A", "LONG"), [("x" * 5, None), ("y", 1)]) == "A      LONG\nxxxxx  -\ny      1"


def test_properties_without_a_value_are_left_out() -> None:
    """A line for what is known."""
    assert pairs([("name", "x"), ("code", None), ("result type", 0)]) == "name         x\nresult type  0"


@pytest.mark.parametrize(("count", "text"), [(None, None), (0, "0 bytes"), (1234, "1,234 bytes"), (1 << 20, "1.0 MiB")])
def test_sizes_are_for_people(count: int | None, text: str | None) -> None:
    """Bytes below a MiB, MiB from there on."""
    assert size(count) == text
