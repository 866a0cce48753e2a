"""scripts/changelog: fragments become a release."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "changelog"


@pytest.fixture
def main() -> Callable[..., None]:
    """Its main function."""
    function: Callable[..., None] = runpy.run_path(str(SCRIPT))["main"]
    return function


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a release and three fragments."""
    (tmp_path / "changes").mkdir()
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n<!-- releases -->\n\n## 0.1.0 - 2026-01-01\n")
    for name, text in {"b.fixed": "Less.", "a.added": "One line\nand another.\n", "c.added": "More.\n"}.items():
        (tmp_path / "changes" / f"{name}.md").write_text(text)
    (tmp_path / "changes" / "README.md").write_text("stays")
    return tmp_path


RELEASE = """\
## {version} - 2026-12-31

### Added

- One line
  and another.
- More.

### Fixed

- Less.
"""


def test_a_release_takes_all_fragments_and_goes_first(main: Callable[..., None], project: Path) -> None:
    """The new release stands above the older ones, by kind, and the fragments are gone."""
    main(["0.2.0", "--date", "2026-12-31"], project)
    expected = f"# Changelog\n\n<!-- releases -->\n\n{RELEASE.format(version='0.2.0')}\n## 0.1.0 - 2026-01-01\n"
    assert (project / "CHANGELOG.md").read_text() == expected
    assert [path.name for path in (project / "changes").iterdir()] == ["README.md"]


def test_without_a_version_it_only_shows(
    main: Callable[..., None], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a version the next release is printed, and nothing changes."""
    main(["--date", "2026-12-31"], project)
    assert capsys.readouterr().out == RELEASE.format(version="Unreleased")
    assert len(list((project / "changes").iterdir())) == 4


def test_a_fragment_of_no_known_kind_is_refused(main: Callable[..., None], project: Path) -> None:
    """A misnamed fragment would be forgotten, so it ends the script with the right form."""
    (project / "changes" / "d.improved.md").write_text("?")
    with pytest.raises(SystemExit, match=r"changes/d\.improved\.md: a fragment is called"):
        main(["0.2.0"], project)


def test_the_fragments_of_this_project_can_be_released(
    main: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fragment that is waiting here has a right name."""
    main([])
    assert capsys.readouterr().out.startswith("## Unreleased - ")
