"""docs/reference/nats.md: what has no words stops the page, and who may do what is what the permissions say."""

from __future__ import annotations

import pytest

from mayfly.bus import subjects
from mayfly.domain.function import Function
from mayfly.ops import nats_config
from pages import nats, structs

pytestmark = [pytest.mark.A3, pytest.mark.A4]


def test_a_subject_without_words_stops_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds a subject to the code has to say on the page what is said there."""

    def paint(colour: str) -> str:
        return f"paint.{colour}"

    paint.__module__ = subjects.__name__
    monkeypatch.setattr(subjects, "paint", paint, raising=False)

    with pytest.raises(ValueError, match=r"subjects of the code and of pages\.nats differ: paint"):
        nats.page()


def test_a_bucket_without_words_stops_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise a bucket; and so do words for one that is gone."""
    monkeypatch.setattr(subjects, "BUCKETS", (*subjects.BUCKETS, "paint"))
    with pytest.raises(ValueError, match=r"buckets of the code and of pages\.nats differ: paint"):
        nats.page()
    monkeypatch.setattr(subjects, "BUCKETS", subjects.BUCKETS[2:-1])  # the last one is the one that was added
    with pytest.raises(ValueError, match=r"buckets of the code and of pages\.nats differ: sessions, users"):
        nats.page()


def test_a_permission_that_nothing_explains_stops_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """No role is given a right that the page does not tell of."""
    given = nats_config.api_permissions()
    given["publish"].append("paint.*")
    monkeypatch.setattr(nats_config, "api_permissions", lambda: given)

    with pytest.raises(ValueError, match=r"nothing on the page explains that a role may use paint\.\*"):
        nats.page()


def test_a_field_without_words_stops_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field of what is stored is explained, beside it in the code or on the page."""
    monkeypatch.delitem(structs.OWN["Function"], "network")
    monkeypatch.setattr(structs, "comments", lambda _struct: {})

    with pytest.raises(KeyError, match=r"Function\.\w+ has no words"):
        structs.described(Function)


def test_no_words_are_for_a_field_that_is_gone() -> None:
    """The page's own words name structs and fields that there are."""
    kinds = {struct.__name__: struct for struct in nats.structs()}

    assert set(structs.OWN) - set(kinds) == set()
    for name, fields in structs.OWN.items():
        assert set(fields) - set(kinds[name].__struct_fields__) == set(), name


def test_what_stands_beside_a_field_is_read() -> None:
    """The code's own comment beside a field, or below it, comes to the page, also one that a struct inherits."""
    words = structs.comments(Function)

    assert words["secrets"] == "Kept when it is replaced."
    assert words["args"] == "Replaces the image's CMD."


@pytest.mark.parametrize(
    ("subject", "pattern", "expected"),
    [
        ("act.x", "act.*", True),
        ("act.x.y", "act.*", False),
        ("audit.x.y", "audit.>", True),
        ("audit", "audit.>", False),
        ("response.x.books.size", "response.*.books.*", True),
        ("response.x.y.z", "response.*.books.*", False),
    ],
)
def test_a_pattern_means_what_nats_means_by_it(subject: str, pattern: str, *, expected: bool) -> None:
    """One token for each star, one or more for the last greater-than."""
    assert nats.matches(subject, pattern) is expected


def test_who_may_do_what_is_read_from_the_permissions() -> None:
    """The queue is written by API servers and read by claims; the trail loses nothing; beats are the workers' own."""
    page = nats.page()

    def row(heading: str, name: str) -> str:
        section = page.split(f"\n### {heading}\n", 1)[1].split("\n### ", 1)[0]
        return next(line for line in section.splitlines() if line.startswith(f"| {name} |"))

    assert row("ACT", "read by") == "| read by | API server, worker (what it claims) |"
    assert row("AUDIT", "removed by") == "| removed by | nobody |"
    assert row("workers", "written by") == "| written by | worker |"
    assert row("users", "read by") == "| read by | API server |"
