"""scripts/docs-site: what it takes and what it refuses, on a project of a few pages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PAGES = {
    "README.md": "# Home\n\n[documents](docs/index.md), [decisions](docs/adr), [code](src/code.py#L1), [more](src)\n",
    "CONTRIBUTING.md": "# Contributing\n",
    "docs/index.md": "# All\n\n[second](howto/second.md), [first](howto/first.md#the-end), [home](../README.md)\n",
    "docs/writeup.md": "# Write-up\n",
    "docs/howto/first.md": "# First\n\n## The end\n",
    "docs/howto/second.md": "# Second\n",
    "docs/adr/2026-01-02-why.md": "# Why\n",
    "src/code.py": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a page or two of some kinds."""
    place = tmp_path / "project"
    for name, text in PAGES.items():
        write(place / name, text)
    return place


def write(path: Path, text: str) -> None:
    """Write a file, in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def build(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    command = [
        str(ROOT / "scripts/docs-site"),
        "--source",
        str(project),
        "--out",
        str(project.parent / "site"),
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_links_lead_to_pages_lists_and_the_project(project: Path) -> None:
    """A link to a page leads to it, to a folder of pages to a list of them, to anything else into the project."""
    done = build(project)

    assert (done.returncode, done.stdout) == (0, f"7 pages in {project.parent / 'site'}\n"), done.stderr
    home = (project.parent / "site/index.html").read_text()
    for target in ("docs/index.html", "docs/adr/index.html", "../project/src/code.py#L1", "../project/src"):
        assert f'href="{target}"' in home
    documents = (project.parent / "site/docs/index.html").read_text()
    assert 'href="howto/first.html#the-end"' in documents
    assert 'href="../index.html"' in documents
    assert (
        '<li>2026-01-02: <a href="2026-01-02-why.html">Why</a></li>'
        in (project.parent / "site/docs/adr/index.html").read_text()
    )


def test_the_project_may_be_elsewhere(project: Path) -> None:
    """Told an address, links into the project lead to it from every page."""
    write(project / "docs/howto/second.md", "# Second\n\n[code](../../src/code.py)\n")

    assert build(project, "--project", "https://git.example.org/mayfly/").returncode == 0
    page = (project.parent / "site/docs/howto/second.html").read_text()
    assert 'href="https://git.example.org/mayfly/src/code.py"' in page


def test_a_new_page_is_in_the_navigation(project: Path) -> None:
    """A page in a folder that is known needs no mention: it comes after those that the index names, in their order."""
    write(project / "docs/howto/again.md", "# Again\n")

    assert build(project).returncode == 0
    page = (project.parent / "site/docs/howto/index.html").read_text()
    places = [page.index(f'<li><a href="{name}.html">') for name in ("second", "first", "again")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("docs/other/page.md", "# Lost\n", "docs/other/page.md"),
        ("docs/howto/second.md", "# Second\n\n[nothing](nowhere.md)\n", "nowhere.md"),
        ("docs/howto/second.md", "# Second\n\n[no such part](first.md#the-middle)\n", "#the-middle"),
        ("docs/howto/second.md", "# Second\n\n[own part](#nothing)\n", "#nothing"),
        ("docs/howto/second.md", "# Second\n\n[root](/howto/first.md)\n", "/howto/first.md"),
        ("docs/howto/second.md", "# Second\n\n![nothing](nothing.svg)\n", "nothing.svg"),
        ("docs/howto/second.md", "# Second\n\n[out of the project](../../../x)\n", "../../../x"),
        ("docs/howto/second.md", "# Second\n\n<p>open\n", "not well-formed"),
        ("docs/howto/second.md", "# Second\n\n```no-such-language\n```\n", "no-such-language"),
    ],
    ids=["lost-page", "link", "part", "own-part", "absolute", "picture", "outside", "html", "language"],
)
def test_what_leads_nowhere_is_refused(project: Path, name: str, text: str, said: str) -> None:
    """A page that no part of the navigation has, a link or picture that is not there, and HTML or a language of blocks
    that nobody could read, end the build with their name."""
    write(project / name, text)
    done = build(project)

    assert done.returncode == 1
    assert said in done.stderr
    assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_in_the_folder_already_goes(project: Path) -> None:
    """A page of an older build is not left in the folder of a newer one."""
    assert build(project).returncode == 0
    write(project.parent / "site/docs/howto/gone.html", "")

    assert build(project).returncode == 0
    assert not (project.parent / "site/docs/howto/gone.html").exists()


def test_a_folder_with_something_else_is_left_alone(project: Path) -> None:
    """A folder that holds something other than an older site is refused, and keeps it."""
    theirs = project.parent / "site/thesis.txt"
    write(theirs, "years")
    refused = build(project)

    assert refused.returncode == 1
    assert "would be lost" in refused.stderr
    assert theirs.read_text() == "years"
