"""What must not be in a log, and is looked for in every log that a test's server writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

SHAPES = {
    "a token": re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "the hash of a password": re.compile(r"\$argon2[a-z]*\$"),
}
SHOWN_CHARACTERS = 60


def leaks(log: str, secrets: Mapping[str, str] | None = None) -> list[str]:
    """
    Find what looks like a secret, and *secrets* themselves, by what each of them is. Each finding has the beginning of
    its line, with the secret masked.
    """
    patterns = SHAPES | {what: re.compile(re.escape(secret)) for what, secret in (secrets or {}).items() if secret}
    return [
        f"{what}: {pattern.sub('*****', line)[: match.start() + SHOWN_CHARACTERS]}"
        for line in log.splitlines()
        for what, pattern in patterns.items()
        if (match := pattern.search(line))
    ]


def secrets_in(directory: Path) -> dict[str, str]:
    """The passwords that lie in the files of a data directory, by their names."""
    return {f"{path.name} of NATS": path.read_text().strip() for path in directory.rglob("*.password")}
