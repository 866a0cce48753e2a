"""Identifiers, and what may become a token of a subject."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.domain.ids import (
    FUNCTION_NAME,
    ID,
    USER_NAME,
    activation_id,
    new_id,
    new_ulid,
    split_activation_id,
    ulid_time,
)


def test_ulids_sort_by_time() -> None:
    """A later ULID sorts after an earlier one, whatever their random parts; and its moment can be read."""
    moments = [1_700_000_000 + millisecond / 1000 for millisecond in range(200)]
    ulids = [new_ulid(moment) for moment in moments]

    assert [ulid_time(ulid) for ulid in ulids] == pytest.approx(moments, abs=0.001)
    assert abs(ulid_time(new_ulid()) - time.time()) < 60
    assert ulids == sorted(ulids)
    assert all(ID.fullmatch(ulid) and len(ulid) == 26 for ulid in ulids)


def test_ids_are_random_and_safe() -> None:
    """A thousand ids are all different and all fit the one rule."""
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(ID.fullmatch(one) for one in ids)


def test_an_activation_id_comes_apart_as_it_was_joined() -> None:
    """What a caller is given leads back to instance and ulid."""
    instance, ulid = new_id(), new_ulid()

    assert split_activation_id(activation_id(instance, ulid)) == (instance, ulid)


@given(st.text(max_size=80))
def test_no_text_becomes_a_token_that_could_split_a_subject(text: str) -> None:
    """Whatever passes as a name or an id has no dot, wildcard, space or control character in it."""
    passes = ID.fullmatch(text) or FUNCTION_NAME.fullmatch(text) or USER_NAME.fullmatch(text)
    if passes or split_activation_id(text):
        assert not set(text) & set(".*> \t\r\n\0")


@pytest.mark.parametrize("text", ["", "a", "x-y", "a" * 24 + "-" + "b" * 25, "A" * 24 + "-" + "b" * 26, "..-.."])
def test_what_is_no_activation_id_is_refused(text: str) -> None:
    """Anything but two ids joined by a hyphen is not an activation id."""
    assert split_activation_id(text) is None


@pytest.mark.parametrize(
    ("name", "good"),
    [("a", True), ("a-b", True), ("9", True), ("a" * 63, True), ("a" * 64, False), ("-a", False), ("a-", False)],
)
def test_function_names_are_labels(name: str, good: bool) -> None:
    """A function's name is a DNS label: 1 to 63 of a-z, 0-9 and hyphens, none at the ends."""
    assert bool(FUNCTION_NAME.fullmatch(name)) is good
