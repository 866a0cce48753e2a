"""docs/reference/scripts.md: what each of scripts/ is for, from the first words of each."""

from __future__ import annotations

import re
from pathlib import Path

from pages.page import ROOT, table

HEAD = """# Scripts

<!-- made by scripts/docs from the first words of each of scripts/ -->

What `scripts/` has, in its own first words; each says more at its beginning. Those who only run Mayfly need
`scripts/setup`, `scripts/demo` and `scripts/build-images`.
"""


def purpose(text: str) -> str:
    """
    Return the first sentence with which a script says what it is for.

    Raises: ValueError when it does not say so.
    """
    found = re.match(r'(?:#!.*\n)?(?:"""\s*(?P<docstring>[^"]*)"""|(?P<comment>(?:#.*\n)+))', text)
    if not found:
        raise ValueError("a script begins with what it is for")
    words = found["docstring"] or re.sub(r"^# ?", "", found["comment"], flags=re.MULTILINE)
    paragraph = " ".join(words.strip().split("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z0-9)])\. (?=[A-Z])", paragraph)[0].rstrip(".:")
    return f"{sentence[0].upper()}{sentence[1:]}."


def scripts(root: Path) -> list[Path]:
    """Return all of them."""
    return sorted(path for path in (root / "scripts").iterdir() if path.is_file())


def page(root: Path = ROOT) -> str:
    """Write the whole page of the project in *root*."""
    rows = ((f"`scripts/{path.name}`", purpose(path.read_text(encoding="utf-8"))) for path in scripts(root))
    return f"{HEAD}\n{table(('script', 'what it does'), rows)}\n"
