"""The tree of errors."""

from __future__ import annotations

import inspect
import re

import pytest

from mayfly.domain import errors
from mayfly.domain.errors import MayflyError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MayflyError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_never_lacks_words(kind: type[MayflyError]) -> None:
    """Raised without a detail, an error says what its class says, as a sentence."""
    assert re.fullmatch(r"[A-Z].*[.!`]", kind().detail, re.DOTALL)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_codes_are_stable_words(kind: type[MayflyError]) -> None:
    """A code is kebab-case, and the three values a caller acts on are set."""
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
    assert kind.fault in ("caller", "function", "platform")
    assert kind().ran in ("no", "yes", "unknown")


def test_no_two_errors_share_a_code() -> None:
    """A code names one error, so that a caller can act on it."""
    own = [kind.code for kind in CLASSES if "code" in vars(kind)]

    assert len(own) == len(set(own))
