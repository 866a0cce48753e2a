"""scripts/release: what is handed in is the whole repository, and nothing of the machine that packed it."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tarfile
from ctypes.util import find_library
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pypdf import PdfReader
from pypdf.generic import DictionaryObject

from tests.support.need import need
from tests.support.references import References

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD, KEPT_ASIDE = secrets.token_hex(8), secrets.token_hex(8)
NOBODYS = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}


def git(place: Path, *arguments: str) -> str:
    """Run git and return what it says; it must succeed."""
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(place), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | NOBODYS).stdout


def release(checkout: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the checkout's scripts/release."""
    command = [sys.executable, str(checkout / "scripts/release"), "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout of the last commit, as this one may have changes; with a remote, a hook and a stash."""
    need((ROOT / ".git").exists() and shutil.which("git"), "a git checkout")
    need(git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "false", "the whole history in this checkout")
    place = tmp_path_factory.mktemp("checkout") / "mayfly"
    history = place.parent / "history.bundle"
    git(ROOT, "bundle", "create", "--quiet", str(history), "HEAD")
    place.mkdir()
    git(place, "init", "--quiet", "--initial-branch=main")
    git(place, "fetch", "--quiet", str(history), "HEAD")
    git(place, "reset", "--quiet", "--hard", "FETCH_HEAD")
    git(place, "remote", "add", "origin", f"https://ann:{PASSWORD}@git.example.org/mayfly.git")
    (place / "README.md").write_text(KEPT_ASIDE)
    git(place, "stash")
    (place / ".git/hooks").mkdir(exist_ok=True)
    (place / ".git/hooks/post-checkout").write_text("#!/bin/sh\n")
    return place


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what was made from it."""
    need(find_library("pango-1.0"), "libpango, for the PDF")
    out = tmp_path_factory.mktemp("out")
    done = release(checkout, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def archive(built: Path) -> Path:
    """The archive."""
    return next(built.glob("*.tgz"))


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as somebody finds it who unpacks the archive in an empty folder."""
    place = tmp_path_factory.mktemp("elsewhere")
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(place)], check=True)
    return place / archive.name.removesuffix(".tgz")


@pytest.fixture(scope="module")
def documents(unpacked: Path) -> Path:
    """Its documents."""
    return unpacked.parent / f"{unpacked.name}-documents"


@pytest.mark.D7
def test_the_archive_is_the_repository_with_its_history(checkout: Path, unpacked: Path) -> None:
    """Unpacked elsewhere, git log tells the same history, git status is clean, and the objects are sound."""
    assert git(unpacked, "log", "--format=%H %s") == git(checkout, "log", "--format=%H %s")
    assert len(git(unpacked, "log", "--format=%H").splitlines()) > 30
    assert git(unpacked, "status", "--porcelain", "--ignored") == ""
    assert git(unpacked, "branch", "--show-current") == "main\n"
    git(unpacked, "fsck", "--strict")


@pytest.mark.D7
def test_the_checksums_are_those_of_the_files(built: Path) -> None:
    """`sha256sum --check` beside archive and PDF says OK of both, and notices a changed byte."""
    check = ["sha256sum", "--check", "SHA256SUMS"]
    done = subprocess.run(check, cwd=built, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count(": OK\n")) == (0, 2)
    for file in built.iterdir():
        assert hashlib.sha256(file.read_bytes() + b"\0").hexdigest() not in (built / "SHA256SUMS").read_text()


@pytest.mark.D7
def test_nothing_of_the_building_machine_is_inside(checkout: Path, archive: Path, unpacked: Path) -> None:
    """No remote, hook, stash, reflog or credential; no path of the checkout in any file or object; no owner."""
    files = [path for path in unpacked.parent.rglob("*") if path.is_file()]
    assert len(files) > 300
    inside = b"".join(path.read_bytes() for path in files) + every_object(unpacked)
    assert b"Write the README and the first docs" in inside  # a commit's words are found, so a trace would be
    traces = (str(checkout), str(archive.parent), PASSWORD, KEPT_ASIDE)
    assert [trace for trace in traces if trace.encode() in inside] == []

    assert git(unpacked, "remote") == ""
    assert git(unpacked, "stash", "list") == ""
    assert not (unpacked / ".git/hooks").exists()
    assert not (unpacked / ".git/logs").exists()
    with tarfile.open(archive) as tar:
        owners = {(entry.uid, entry.gid, entry.uname, entry.gname) for entry in tar.getmembers()}
    assert owners == {(0, 0, "", "")}


def every_object(repository: Path) -> bytes:
    """Return the contents of every object in a repository, one after the other."""
    command = ["git", "-C", str(repository), "cat-file", "--batch-all-objects", "--batch"]
    return subprocess.run(command, check=True, capture_output=True, env=os.environ | NOBODYS).stdout


@pytest.mark.D7
def test_one_commit_makes_one_archive(checkout: Path, built: Path, tmp_path: Path) -> None:
    """A second run makes the same bytes, also with --despite-changes to files, which are left out then: so a checksum
    can be compared with a build of one's own."""
    changed, new = checkout / "README.md", checkout / "forgotten.txt"
    committed = changed.read_text()
    try:
        changed.write_text("half done\n")
        new.write_text("forgotten\n")
        done = release(checkout, tmp_path, "--despite-changes")
    finally:
        changed.write_text(committed)
        new.unlink()

    assert done.returncode == 0, done.stderr
    first, second = ({file.name: file.read_bytes() for file in out.iterdir()} for out in (built, tmp_path))
    assert second.keys() == first.keys()
    for name in first:
        if name.endswith(".tgz"):
            assert gzip.decompress(second[name]) == gzip.decompress(first[name])
        assert second[name] == first[name], name


@pytest.mark.D7
def test_the_documents_are_beside_the_repository(documents: Path) -> None:
    """Each document is there as HTML; its links and pictures lead to files of the archive, and to headings there."""
    pages = {page: References(page) for page in documents.rglob("*.html")}

    names = {page.relative_to(documents).as_posix() for page in pages}
    assert {"index.html", "docs/explanation/architecture.html", "deploy/compose/index.html"} <= names
    seen = 0
    for page, references in pages.items():
        for there, part in references.inner():
            seen += 1
            assert there.exists(), f"{page.name}: {there}"
            assert there not in pages or not part or part in pages[there].ids, f"{page.name}: {there.name}#{part}"
    assert seen > 1000


@pytest.mark.D6
def test_the_write_up_is_there_as_pdf(documents: Path, unpacked: Path) -> None:
    """It has every section in its table of contents, its drawings, and numbers on its pages."""
    text = [page.extract_text() for page in PdfReader(documents / "writeup.pdf").pages]
    sections = re.findall(r"^## (.*)$", (unpacked / "docs/writeup.md").read_text(), re.MULTILINE)

    assert len(text) > 10
    assert len(sections) == 8
    for section in sections:
        page = re.search(rf"^{re.escape(section)}[ .]+(\d+)$", text[0], re.MULTILINE)
        assert page, f"{section} is not in the table of contents: {text[0]}"
        assert section in text[int(page[1]) - 1]
    assert all(f"{number} / {len(text)}" in page for number, page in enumerate(text, start=1) if number > 1)
    for drawn in ("gateway(APISIX)", "Onecallatatime", "Manycallsatonce"):  # their letters are placed one by one
        assert any(drawn in page.replace(" ", "") for page in text), drawn


@pytest.mark.D6
@pytest.mark.parametrize("place", ["in the documents", "beside the archive"])
def test_the_links_of_the_pdf_lead_somewhere(place: str, built: Path, documents: Path) -> None:
    """Wherever it lies, its links lead to pages and files of the unpacked archive, to parts of itself, and to the web;
    and nothing in it names a file of the building machine."""
    reader = PdfReader((documents if place == "in the documents" else built) / "writeup.pdf")
    folder = documents if place == "in the documents" else documents.parent
    targets = [link for page in reader.pages for link in map(target_of, page.annotations or ())]

    paths = [target for target in targets if target and not urlsplit(target).scheme]
    assert len(paths) > 60
    pages: dict[Path, References] = {}
    for target in paths:
        there = folder / unquote(urlsplit(target).path)
        assert there.exists(), target
        part = urlsplit(target).fragment
        if part and there.suffix == ".html":
            own = pages.setdefault(there, References(there))
            assert part in own.ids, target
    assert targets.count("") >= 8, "those to its own parts"
    assert {urlsplit(target).scheme for target in targets} <= {"", "https"}


def target_of(annotation: DictionaryObject) -> str:
    """The address that a link of a PDF leads to, nothing if it is a part of the PDF itself."""
    link = annotation.get_object()
    assert isinstance(link, DictionaryObject)
    return str(link.get("/A", {}).get("/URI", ""))


@pytest.mark.D7
def test_the_two_commands_of_the_readme_are_there(unpacked: Path) -> None:
    """The README's two commands are in the unpacked archive, can be run, and are sound shell."""
    named = re.findall(r"^\| `(scripts/\w+)` \|", (unpacked / "README.md").read_text(), re.MULTILINE)

    assert named == ["scripts/demo", "scripts/test"]
    for name in named:
        assert os.access(unpacked / name, os.X_OK)
        subprocess.run(["bash", "-n", str(unpacked / name)], check=True)


@pytest.mark.D7
@pytest.mark.root
@pytest.mark.long
def test_the_demo_works_where_it_is_unpacked(unpacked: Path) -> None:
    """scripts/demo sets itself up in the unpacked folder and every answer is right; the tree is clean afterwards."""
    need(os.geteuid() == 0, "root")
    done = subprocess.run([str(unpacked / "scripts/demo")], capture_output=True, text=True, timeout=900, check=False)

    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert git(unpacked, "status", "--porcelain") == ""


@pytest.mark.D7
def test_what_is_not_committed_is_named_and_refused(checkout: Path, tmp_path: Path) -> None:
    """A changed and a new file stop the release with their names."""
    changed, new = checkout / "README.md", checkout / "forgotten.txt"
    committed = changed.read_text()
    try:
        changed.write_text("half done\n")
        new.write_text("forgotten\n")
        refused = release(checkout, tmp_path / "out")
    finally:
        changed.write_text(committed)
        new.unlink()

    assert refused.returncode == 1
    assert " M README.md" in refused.stderr
    assert "?? forgotten.txt" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.D7
def test_a_checkout_without_its_history_is_refused(checkout: Path, tmp_path: Path) -> None:
    """A shallow checkout would make an archive without the history, so it is refused with the remedy."""
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth", "1", checkout.as_uri(), str(shallow))

    refused = release(shallow, tmp_path / "out")

    assert refused.returncode == 1
    assert "git fetch --unshallow" in refused.stderr
    assert not (tmp_path / "out").exists()
