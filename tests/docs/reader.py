"""
A reader of a page: types what stands in it, from its top to its end, in one shell that begins in an empty folder, and
compares what is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.page import Block, blocks_of
from tests.support.up import PASSWORD

TAKES_S = 300  # a page has up to fifty commands, each of which starts a Python
CTRL_C_S = 30
TERMINAL = """\
terminal() { # NAME FILE OUTPUT WORDS: end what runs in that terminal, type the file there, wait until it prints words
    [ ! -e {scratch}/$1.terminal ] || { kill -INT -- -$(<{scratch}/$1.terminal); wait $(<{scratch}/$1.terminal) || :; }
    setsid env --default-signal=INT bash $2 </dev/null &
    echo $! >{scratch}/$1.terminal
    until grep -qF -- "$4" $3; do kill -0 $!; sleep 0.05; done
}
"""
"""A function of the shell that types the page, for what goes on in another terminal."""
CHANGES = [
    (r"\b[a-z0-9]{20,32}-[0-9a-z]{26}\b", "AN-ACTIVATION"),
    (r"\b[a-z0-9]{20,32}-[0-9a-z]{0,25}…", "AN-ACTIVATION"),
    (r"^[a-z0-9]{24}  +\S+(?=  +\d+\.\d+\.\d+  )", "A-WORKER ITS-HOST"),
    (r"\bnats-[123]\b(?= +\d of \d )", "A-LEADER"),
    (r"\b[a-z0-9]{24,32}\b", "AN-ID"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "A-UUID"),
    (r"\bsha256:[0-9a-f]{12,64}\b", "A-DIGEST"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?", "A-TIME"),
    (r"\b[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \d{4} GMT\b", "A-TIME"),  # as OpenSSL writes it
    (r"\b\d+(\.\d+)? ms\b", "SOME ms"),
    (r"\b\d+\.\d+ (s|KiB|MiB|kB|MB)\b", "SOME \\1"),  # what was measured: limits are whole numbers
    (r"\b(dur=|took )\d+(\.\d+)?", "\\1SOME"),
    (r"(?<= messages) +\d+ bytes$", " SOME bytes"),  # of `mayfly inspect`
    (r"(?<=[ \[,])\d+\.\d{3,}\b", "A-FIGURE"),  # to the thousandth: it was measured
]
"""What differs from one run to the next, and so is not compared: the pattern, and what stands for it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a reader does at one block: type commands, or write a file."""

    block: Block
    told: Block | None
    """What the page says that the commands print."""


def steps_of(page: Path) -> Iterator[Step]:
    """What there is to do in a page, in its order."""
    found = list(blocks_of(page))
    for block, following in zip(found, [*found[1:], None], strict=True):
        told = following if following and following.language == "output" else None
        if block.title or (block.language == "sh" and not block.remarks.keys() & {"typed by", "not typed"}):
            yield Step(block, told)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One who sits in *directory*, an empty folder, at a machine on which *installation* holds."""

    directory: Path
    environment: Mapping[str, str]
    """Beside what every shell has."""

    instead: Mapping[str, str] = field(default_factory=dict)
    """What to type instead of words of the page, which are patterns: where this installation is, for instance."""

    first: str = ":"
    """What was typed before the page."""

    async def follow(self, page: Path) -> None:
        """
        Type the page.

        Raises: AssertionError, which says where in the page it went wrong, with what was printed.
        """
        steps = list(steps_of(page))
        scratch = self.directory / ".steps"
        scratch.mkdir()
        try:
            ended = await self._run(self._script(steps, scratch))
        finally:
            await asyncio.to_thread(_close, sorted(scratch.glob("*.terminal")))
        at = int((scratch / "at").read_text())
        assert ended == 0, f"{steps[at].block}: status {ended}\n{_said(scratch / str(at))}"
        assert (scratch / "end").exists(), f"{steps[at].block}: the shell ended here, before the page did"
        for number, step in enumerate(steps):
            if step.told:
                said = _said(scratch / str(number))
                same = prints(
                    self._typed_as(step.told.text), self._typed_as(said)
                )  # which may have words of pages, too
                assert same, f"{step.told}: this was printed:\n{said}"

    def _script(self, steps: list[Step], scratch: Path) -> str:
        lines = ["set -euo pipefail", TERMINAL.replace("{scratch}", str(scratch))]
        lines.append(f"echo 0 >{scratch}/at; exec >{scratch}/0 2>&1; {self._typed_as(self.first)}")
        for number, step in enumerate(steps):
            block = step.block
            file = scratch / f"{number}.text"
            file.write_text(self._typed_as(block.text), encoding="utf-8")
            here, status = shlex.quote(str(file)), block.remarks.get("ends with", "0")
            lines += [f"echo {number} >{scratch}/at", f"exec >{scratch}/{number} 2>&1"]
            if block.title:
                name = shlex.quote(block.title)
                lines.append(f"mkdir -p $(dirname {name}); cp {here} {name}")
            elif terminal := block.remarks.get("terminal"):
                words = shlex.quote(_last_words(self._typed_as(step.told.text if step.told else "")))
                lines.append(f"terminal {terminal} {here} {scratch}/{number} {words}")
            elif status == "0":
                lines.append(f". {here} </dev/null")
            else:
                lines.append(
                    f"set +e; (set -e; . {here} </dev/null); ended=$?; set -e; [ $ended = {int(status)} ] || exit 99"
                )
        lines.append(f"touch {scratch}/end")
        return "\n".join(lines)

    async def _run(self, script: str) -> int:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script),
            cwd=self.directory,
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(self.directory),
                "MAYFLY_CONFIG_DIR": str(self.directory / ".config"),
                "COLUMNS": "120",
                "LC_ALL": "C.UTF-8",
                **self.environment,
            },
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(TAKES_S):
                return await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # as a rule there is nobody left
                os.killpg(process.pid, signal.SIGTERM)
            await process.wait()

    def _typed_as(self, text: str) -> str:
        """What is typed for a text of the page: passwords, which a terminal asks for, come from a pipe."""
        return re.sub(
            r"\b(mayfly (?:register|login) [\w-]+)(?![^\n]*--password-stdin)",
            rf"\1 --password-stdin <<<'{PASSWORD}'",
            typed_as(text, self.instead),
        )


def typed_as(text: str, instead: Mapping[str, str]) -> str:
    """The text, with other words in the place of those that are patterns."""
    for words, other in instead.items():
        text = re.sub(words, other, text)
    return text


def _last_words(told: str) -> str:
    """
    What is printed last of what a page tells.

    Raises: AssertionError if that is nothing: then nobody could tell when it is there.
    """
    found = [words.strip() for line in told.splitlines() for words in line.split("...") if words.strip()]
    assert found, "what goes on in another terminal needs a block of output"
    return found[-1]


def _close(terminals: list[Path]) -> None:
    """Press Ctrl-C in each terminal, and see what runs there end."""
    for file in terminals:
        pid = int(file.read_text())
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            process = os.pidfd_open(pid)
            try:
                os.killpg(pid, signal.SIGINT)
                if not select.select([process], [], [], CTRL_C_S)[0]:
                    os.killpg(pid, signal.SIGKILL)
                    raise AssertionError(f"what runs in the {file.stem} terminal does not end at Ctrl-C")
            finally:
                os.close(process)


def _said(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def prints(told: str, said: str) -> bool:
    """
    Whether *said* is what a page says is printed: the same words, but for what differs in every run (`CHANGES`), for
    how wide the columns are, and for what the page leaves out with `...`, which is a part of a line or, as a line of
    its own, any number of lines.
    """
    lines = _same_in_each_run(told).splitlines()
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else _as_pattern(line) for line in lines)
    return re.fullmatch(pattern, f"{_same_in_each_run(said)}\n") is not None


def _as_pattern(line: str) -> str:
    return ".*?".join(re.escape(part) for part in line.split("...")) + r"\n"


def _same_in_each_run(text: str) -> str:
    for pattern, name in CHANGES:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.strip().splitlines())
    return "\n".join(line for line in lines if line)
