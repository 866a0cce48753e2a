"""
Running the examples of docs/reference/api.md on a real installation, and keeping or comparing what it answers.

Each command is run as it stands, by bash and curl, but for the image, which comes from where the installation can
have it. What differs from one run to the next (ids, times, tokens, digests, durations) is not compared; everything else
is: status, headers, each member of a body, and each value.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages.examples import EXAMPLES, IMAGE, Example

RECORDED = Path(__file__).with_name("examples.json")
CURL = "silent\nshow-error\ninclude\n"  # as a ~/.curlrc would say it
OF_EVERY_ANSWER = {
    "date",
    "content-length",
    "x-request-id",
    "x-content-type-options",
    "cache-control",
    "referrer-policy",
}
VARY = (
    (re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z"), "(time)"),
    (re.compile(r"\bsha256:[0-9a-f]{64}\b"), "(digest)"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), "(token)"),
    (re.compile(r"\b[0-9a-z]{20,32}(-[0-9a-z]{20,32})?\b"), "(id)"),
    (re.compile(r"\bdur=[\d.]+"), "dur=(ms)"),
    (re.compile(r'^"\d+"$'), "(revision)"),
)
OF_THE_MACHINE = {
    "host",
    "version",
    "runtime",
    "images",
    "held",
    "running",
    "bytes",
    "messages",
    "max_bytes",
    "memory_peak_bytes",
}
"""Members whose values are the machine's or the moment's; that they are there is compared."""


@dataclass(frozen=True, slots=True)
class Played:
    """An example, and what it was answered with."""

    operation: str
    command: str
    status: str
    headers: dict[str, str]
    body: Any

    @property
    def compared(self) -> dict[str, Any]:
        """Return all of it that is the same in every run."""
        return {
            "command": self.command,
            "status": self.status,
            "headers": masked(self.headers),
            "body": masked(self.body),
        }


def masked(value: Any, name: str = "") -> Any:
    """Put a word in the place of what differs from run to run."""
    if name in OF_THE_MACHINE:
        return "(varies)"
    match value:
        case dict():
            return {key: masked(inner, key) for key, inner in value.items()}
        case list():
            return [masked(inner) for inner in value]
        case float():
            return "(seconds)"
        case str():
            for pattern, word in VARY:
                value = pattern.sub(word, value)
    return value


def play(examples: Iterable[Example], environment: dict[str, str], *, home: Path, image: str) -> list[Played]:
    """
    Run all examples in turn on an installation; *environment* says where it is (`SETUP`), *home* is for curl's settings
    and what `mayfly` is told, *image* takes the place of `IMAGE`.

    Raises: RuntimeError when a command fails.
    """
    (home / ".curlrc").write_text(CURL)
    variables = {**environment, "CURL_HOME": str(home), "HOME": str(home)}
    played = []
    for example in examples:
        head = 'AUTH="Authorization: Bearer ${TOKEN-}" OPERATOR="Authorization: Bearer ${OPERATORS_TOKEN-}"\n'
        command = head + example.command.replace(f'"{IMAGE}"', f'"{image}"')
        ended = subprocess.run(["bash", "-uc", command], env=variables, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RuntimeError(f"{example.command}\n{ended.stderr}{ended.stdout}")
        if not example.command.startswith("curl"):
            continue
        status, headers, body = _answer(ended.stdout.replace(image, IMAGE))
        if status[:1] != "2" and example.operation != "problem":
            raise RuntimeError(f"{example.command}\n{ended.stdout}")
        variables |= {name: _found(where, headers, body) for name, where in example.saves.items()}
        if example.operation:
            played.append(Played(example.operation, example.command, status, headers, body))
    return played


def _answer(text: str) -> tuple[str, dict[str, str], Any]:
    head, _, body = text.partition("\n\n")
    first, *lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    kept = {name: value for name, value in headers.items() if name not in OF_EVERY_ANSWER}
    is_json = headers.get("content-type", "").endswith("json")
    return first.partition(" ")[2].strip(), kept, json.loads(body) if is_json else body or None


def _found(where: str, headers: dict[str, str], body: Any) -> str:
    if where.startswith("@"):
        return headers[where[1:]]
    for part in where.split("."):
        body = body[int(part)] if part.isdecimal() else body[part]
    return str(body)


def keep(played: list[Played]) -> None:
    """Write down what was answered."""
    records = [
        {"operation": each.operation, "command": each.command, "status": each.status, "headers": each.headers}
        | {"body": each.body}
        for each in played
    ]
    RECORDED.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def recorded() -> list[Played]:
    """Read what was written down."""
    return [Played(**each) for each in json.loads(RECORDED.read_text(encoding="utf-8"))]


def shown() -> list[Example]:
    """Return the examples that stand on the page."""
    return [example for example in EXAMPLES if example.operation]
