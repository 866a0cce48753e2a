"""
The YAML of the gateway's files: plain, bounded, and the same to every reader.

APISIX reads with a YAML library of its own, which takes the last of two equal keys and knows anchors and tags. What two
readers could understand differently is refused here, and so is what costs a reader more than its length: the files are
some ten kilobytes, made by a program. Rows: D3.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mayfly.ops.gateway.checks.problem import ROUTES, Problem

SIZE_MAX_BYTES = 256 * 1024
DEPTH_MAX = 24
NODES_MAX = 10_000

TEXT_TAG, MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
PLACEHOLDER = re.compile(r"\$\{\{\s*(\w+)\s*(?::=(.*?))?\}\}")
END = re.compile(r"#END\s*\Z")
END_WITHIN_CHARACTERS = 10  # of the end: how far APISIX looks for the mark


class Unreadable(Exception):
    """A file cannot be read; `problems` says why."""

    def __init__(self, *problems: Problem) -> None:
        """Take what is wrong."""
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)


def read_file(path: Path, name: str) -> str:
    """
    Read one of the files as text. *name* is what problems call it.

    Raises: Unreadable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # waits for nobody to fill a pipe
        with os.fdopen(descriptor, "rb") as source:
            content = source.read(SIZE_MAX_BYTES + 1) or b""
    except OSError as error:
        raise Unreadable(Problem(name, "", f"cannot be read: {error.strerror}.")) from None
    if len(content) > SIZE_MAX_BYTES:
        raise Unreadable(_too_large(name))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        where = f"byte {error.start}"
        raise Unreadable(Problem(name, where, "is not UTF-8; render the file again.")) from None


def parse(text: str, name: str, *, template: bool = False) -> dict[str, Any]:
    """
    Read the text of one file. In a *template* placeholders such as `${{NAME}}` may stay, and stand for their names.

    Raises: Unreadable with all that keeps it from being understood.
    """
    if len(text) > SIZE_MAX_BYTES or len(text.encode(errors="replace")) > SIZE_MAX_BYTES:
        raise Unreadable(_too_large(name))
    problems = [*_end_mark(text, name), *_placeholders(text, name, template=template)]
    filled = PLACEHOLDER.sub(lambda found: found[1] if found[2] is None else found[2], text)
    content, more = _load(filled, name)
    if problems or more:
        raise Unreadable(*problems, *more)
    if not isinstance(content, dict):
        raise Unreadable(Problem(name, "", "must be a mapping of names to values at the top."))
    return content


def _too_large(name: str) -> Problem:
    return Problem(name, "", f"has more than {SIZE_MAX_BYTES:,} bytes, the most that is read; render it again.")


def _end_mark(text: str, name: str) -> Iterator[Problem]:
    if name != ROUTES or END.search(text[-END_WITHIN_CHARACTERS:]):
        return
    if "#END" in text:
        yield Problem(
            name, "end", "something follows #END: APISIX takes the file as half written. Make it the last line."
        )
    else:
        yield Problem(name, "end", "#END is missing: APISIX takes the file as half written. Add it as the last line.")


def _placeholders(text: str, name: str, *, template: bool) -> Iterator[Problem]:
    for number, line in enumerate(text.splitlines(), 1):
        for found in PLACEHOLDER.finditer(line):
            if line.lstrip().startswith("#"):
                why = "a placeholder in a comment counts, too: unset, it keeps the whole file out of force. Remove it."
                yield Problem(name, f"line {number}", why)
            elif found[2] is None and not template:
                why = "a placeholder was left where a value belongs; `mayfly gateway render` fills it from the secrets."
                yield Problem(name, f"line {number}", why)


def _load(text: str, name: str) -> tuple[Any, list[Problem]]:
    try:
        loader = _Bounded(text)
        tree = loader.get_single_node()
        problems = list(_keys(tree, name, ""))
        return None if problems or tree is None else loader.construct_document(tree), problems
    except _TooMuch as error:
        raise Unreadable(Problem(name, error.where, str(error))) from None
    except yaml.MarkedYAMLError as error:
        raise Unreadable(Problem(name, _line(error.problem_mark), _not_yaml(error.problem))) from None
    except yaml.reader.ReaderError as error:
        why = f"is not YAML: character {error.position} of the file may not be there."
        raise Unreadable(Problem(name, "", why)) from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError):
        why = "has a number or a date that cannot be read; write texts in quotes."
        raise Unreadable(Problem(name, "", why)) from None


class _TooMuch(Exception):
    def __init__(self, message: str, mark: Any) -> None:
        super().__init__(message)
        self.where = _line(mark)


class _Bounded(yaml.SafeLoader):
    """Looks at each event before anything is made of it: only there can depth and number be bounded."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._number = 0

    def get_event(self) -> Any:
        event = super().get_event()  # type: ignore[no-untyped-call]
        self._number += 1
        self._depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if self._depth > DEPTH_MAX or self._number > NODES_MAX:
            why = f"is nested deeper than {DEPTH_MAX} levels or has more than {NODES_MAX:,} values; render it again."
            raise _TooMuch(why, event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _TooMuch("has an anchor or an alias; write the value where it is needed.", event.start_mark)
        if getattr(event, "tag", None):
            raise _TooMuch("has a YAML tag (!...); write the plain value.", event.start_mark)
        return event


def _keys(node: yaml.Node | None, name: str, where: str) -> Iterator[Problem]:
    """Find keys that are there twice: a reader takes one of them, and does not say which."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _keys(item, name, f"{where}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in {TEXT_TAG, MERGE_TAG}:
                yield Problem(name, where, f"{_line(key.start_mark)}: a key that is not a text; put it in quotes.")
                continue
            path = f"{where}.{key.value}" if where else str(key.value)
            if key.tag == MERGE_TAG:
                yield Problem(name, where, "merges another mapping (<<); write the keys where they are needed.")
            if key.value in seen:
                yield Problem(name, path, "is there twice; APISIX takes the last one. Remove one of them.")
            seen.add(key.value)
            yield from _keys(value, name, path)


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}" if mark else ""


def _not_yaml(problem: str | None) -> str:
    """Word it without what stands in quotes: that can be a piece of a secret."""
    return "is not YAML: " + re.sub(r"'[^']{2,}'", "'...'", problem or "it cannot be read") + "."
