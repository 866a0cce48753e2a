"""The grammar of image references as one expression, for the OpenAPI."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mayfly.domain.errors import InvalidRequest
from mayfly.images.reference import MAX_CHARACTERS, PATTERN, parse_reference

PIECES = ["a", "B", "0", "-", "_", "__", ".", "/", ":", "@", "localhost", "local", ":80", ":65536", "sha256:", "[::1]"]
DIGEST = "@sha256:" + "0" * 64


@settings(max_examples=200)
@given(
    st.from_regex(PATTERN, fullmatch=True).filter(lambda text: len(text) <= MAX_CHARACTERS)
    | st.lists(st.sampled_from([*PIECES, DIGEST]), min_size=1, max_size=7).map("".join)
)
@example("a.b/c")
@example("Ab/c")
@example("a_b.c/d")
@example("localhost/a")
@example("a:80/b:c" + DIGEST)
@example("x\n")
def test_the_pattern_says_what_the_parser_says(text: str) -> None:
    """A reference fits the expression if, and only if, it can be read."""
    try:
        parse_reference(text)
    except InvalidRequest:
        is_reference = False
    else:
        is_reference = True

    assert (re.fullmatch(PATTERN, text) is not None) == is_reference
