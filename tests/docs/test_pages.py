"""Each page that has commands, followed by a reader from its top to its end, on an installation of its own."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from tests.docs.images import IMAGES, Shelf
from tests.docs.reader import Reader, prints, steps_of, typed_as
from tests.support.nats import free_port
from tests.support.need import need
from tests.support.page import PAGES, ROOT, blocks_of
from tests.support.registry import HTPASSWD_PASSWORD
from tests.support.up import PASSWORD, Up, running_up

FOLLOWED: dict[str, dict[str, Any]] = {
    "README.md": {},
    "docs/howto/allow-registries.md": {"allowed_registries": "docker.io,10.0.0.5:5000"},
    "docs/howto/call-asynchronously.md": {},
    "docs/howto/call-from-a-machine.md": {},
    "docs/howto/call-from-ci.md": {},
    "docs/howto/call-from-javascript.md": {},
    "docs/howto/call-from-python.md": {},
    "docs/howto/debug-a-function.md": {},
    "docs/howto/keep-secrets.md": {},
    "docs/howto/limit-concurrency.md": {},
    "docs/howto/log-in-under-attack.md": {"metrics_listen": "127.0.0.1:9464"},
    "docs/howto/monitor.md": {"metrics_listen": "127.0.0.1:9464", "slots": 4},
    "docs/howto/retry-safely.md": {},
    "docs/howto/run-the-gateway.md": {},
    "docs/howto/scale.md": {
        "metrics_listen": "127.0.0.1:9464",
        "slots": 2,
        "max_activations": 16,
        "max_activations_per_user": 16,
    },
    "docs/howto/see-who-did-what.md": {},
    "docs/howto/troubleshoot.md": {"metrics_listen": "127.0.0.1:9464"},
    "docs/howto/upgrade.md": {"metrics_listen": "127.0.0.1:9464"},
    "docs/howto/use-a-private-registry.md": {},
    "docs/howto/when-the-store-is-full.md": {"metrics_listen": "127.0.0.1:9464"},
    "docs/howto/write-a-function.md": {},
    "docs/tutorial/first-function.md": {},
    "docs/tutorial/go.md": {},
    "docs/tutorial/javascript.md": {},
    "docs/tutorial/python.md": {},
    "docs/tutorial/shell.md": {},
}
"""The pages, with the settings of the installation that each is followed on."""

MEASURED = {
    "docs/explanation/capacity.md": "tests/unit/capacity/test_command.py",
    "docs/explanation/where-the-time-goes.md": "tests/integration/bench",
    "docs/reference/chaos.md": "tests/chaos/test_chaos.py",
    "docs/reference/performance.md": "tests/bench/test_short.py",
}
"""Pages that are figures and the commands which made them, with what tries those commands in a shorter form."""

EXAMPLES = sorted(page for page in (ROOT / "examples").glob("*/README.md") if any(steps_of(page)))
"""Those of the examples, followed on one installation, each in a copy of its folder."""

TAUGHT = {
    "docs/tutorial/go.md": "factor",
    "docs/tutorial/javascript.md": "words",
    "docs/tutorial/python.md": "json-python",
    "docs/tutorial/shell.md": "total",
}
"""Pages whose files are those of an example."""

LOGGED_IN = "expect a login"
"""Words of a page that begins where the tutorial ends: ann is logged in, and her password is in $PASSWORD."""

UP = re.compile(r"\bmayfly up\b")
"""What a page types in a terminal if it begins with an installation of its own."""

PRIVATE = r"\bprivate\.example\b"
"""The registry of pages that asks for a password, which is in $REGISTRY_PASSWORD."""

AT_HOME = r"\b127\.0\.0\.1:5000\b"
"""The registry of the reader's own that pages name."""

DOCKER = re.compile(r"\bdocker (build|login|push|run|save)\b")
"""A page that has its reader build or run images; what is typed so goes to a real daemon."""

NODE = re.compile(r"^node ", re.MULTILINE)


@pytest.mark.parametrize("page", FOLLOWED)
async def test_a_reader_who_follows_the_page_gets_what_it_says(
    page: str, shelf: Shelf, locked: str, docker: Callable[[], str], programs: Path, tmp_path: Path
) -> None:
    """
    Every command ends well, and prints what the page says. What is typed otherwise than it stands there is where the
    installation is, which registry has the images, and the password, for which a terminal would be asked.
    """
    typed = "".join(step.block.text for step in steps_of(ROOT / page))
    shelf.bring(typed)
    elsewhere = _elsewhere()
    settings: dict[str, Any] = {name: typed_as(str(value), elsewhere) for name, value in FOLLOWED[page].items()}
    brings_up = any(step.block.remarks.get("terminal") and UP.search(step.block.text) for step in steps_of(ROOT / page))
    folder = tmp_path / "reader"
    trust(shelf.registry, folder)
    with (to_be_started if brings_up else running)(f"{shelf.registry},{locked}", settings) as (up, given):
        environment = {**given, "PATH": _path(programs)}
        first = ":"
        if LOGGED_IN in " ".join((ROOT / page).read_text(encoding="utf-8").split()):
            environment |= await _registered(up)
            first = "mayfly login ann"
        need(not NODE.search(typed) or shutil.which("node"), "node 20 or later")
        if DOCKER.search(typed):
            environment |= {"DOCKER_HOST": docker(), "REGISTRY_PASSWORD": HTPASSWD_PASSWORD}
        theirs = {AT_HOME: f"127.0.0.1:{free_port()}" if brings_up else shelf.registry, PRIVATE: locked}
        instead = _instead(up, shelf.registry) | elsewhere | theirs
        reader = Reader(directory=folder, environment=environment, instead=instead, first=first)
        await reader.follow(ROOT / page)


@pytest.fixture(scope="module")
def up(shelf: Shelf) -> Iterator[Up]:
    """An installation for all examples."""
    with running_up(shelf.registry, slots=2) as installation:
        yield installation


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.parent.name)
async def test_a_reader_of_an_example_gets_what_it_says(
    page: Path, up: Up, shelf: Shelf, docker: Callable[[], str], programs: Path, tmp_path: Path
) -> None:
    """Its README is followed in a copy of its folder, by somebody who is logged in."""
    folder = tmp_path / page.parent.name
    shutil.copytree(page.parent, folder)
    instead = {**_instead(up, shelf.registry), AT_HOME: shelf.registry}
    dockerfile = folder / "Dockerfile"
    typed = "".join(step.block.text for step in steps_of(page))
    shelf.bring(typed)
    dockerfile.write_text(typed_as(dockerfile.read_text(), instead))
    async with await up.user() as client:
        token = client.headers["authorization"].removeprefix("Bearer ")
    environment = {
        "PATH": _path(programs),
        "MAYFLY_URL": up.url,
        "MAYFLY_CA_FILE": str(up.ca_file),
        "MAYFLY_TOKEN": token,
        "TOKEN": token,
    }
    if DOCKER.search(typed):
        environment["DOCKER_HOST"] = docker()
    await Reader(directory=folder, environment=environment, instead=instead).follow(page)


def test_the_code_of_the_tutorial_is_that_of_the_examples() -> None:
    """Each file that a page of the tutorial has its reader write is the example's, to the letter."""
    written = 0
    for page, example in TAUGHT.items():
        files = {block.title: block.text for block in blocks_of(ROOT / page) if block.title}
        assert "Dockerfile" in files
        for name, text in files.items():
            assert text == (ROOT / "examples" / example / name).read_text(encoding="utf-8"), f"{page}: {name}"
            written += 1
    assert written == 9


def _path(programs: Path) -> str:
    return f"{programs}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin"


@contextmanager
def running(registry: str, settings: dict[str, Any]) -> Iterator[tuple[Up, dict[str, str]]]:
    """Run an installation; give it, and what a shell on its machine has in the environment."""
    with running_up(registry, **settings) as up:
        yield up, {"MAYFLY_DATA_DIR": str(up.data_dir)}


@contextmanager
def to_be_started(registry: str, settings: dict[str, Any]) -> Iterator[tuple[Up, dict[str, str]]]:
    """Run none: the page says how, and with this environment it is another than the machine's own."""
    with TemporaryDirectory(prefix="mayfly-up-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # for its parts without privileges
        listen = f"127.0.0.1:{free_port()}"
        given = {"data_dir": directory, "listen": listen, "private_registries": registry, **settings}
        given.setdefault("plain_http_registries", registry)
        environment = {f"MAYFLY_{name.upper()}": str(value) for name, value in given.items()}
        yield (
            Up(f"https://{listen}", Path(directory) / "ca.crt", Path(directory)),
            {**environment, "PASSWORD": PASSWORD},
        )


def trust(registry: str, home: Path) -> None:
    """Have skopeo take images from it without TLS, as from the registry that it stands in for with TLS."""
    file = home / ".config" / "containers" / "registries.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')


async def _registered(up: Up) -> dict[str, str]:
    """Register ann; return what her shell has then."""
    async with await up.user("ann") as client:
        token = client.headers["authorization"].removeprefix("Bearer ")
    return {"MAYFLY_URL": up.url, "MAYFLY_CA_FILE": str(up.ca_file), "PASSWORD": PASSWORD, "TOKEN": token}


def _elsewhere() -> dict[str, str]:
    """Free ports for those that pages name: of metrics, of the API and of a worker; and of a second installation."""
    metrics = free_port()
    return {
        r"127\.0\.0\.1:9464": f"127.0.0.1:{metrics}",
        r"127\.0\.0\.1:9465": f"127.0.0.1:{metrics + 1}",
        r"127\.0\.0\.1:18443": f"127.0.0.1:{free_port()}",
    }


def _instead(up: Up, registry: str) -> dict[str, str]:
    return {
        r"https://127\.0\.0\.1:8443": up.url,
        r"/var/lib/mayfly": str(up.data_dir),
        r"\bmayfly\.log\b": str(up.data_dir / "up.log"),
        r"\bdocker\.io/library/|\bregistry\.example/": f"{registry}/",
        IMAGES: rf"{registry}/\1",
        r"\$PWD/\.venv/bin:": "",
        r"\.venv/bin/mayfly": "mayfly",
    }


def test_every_block_of_commands_is_typed_or_says_why_not() -> None:
    """By this file, by another test, which is there, or by nobody, for a reason that stands above it."""
    typed = 0
    for page in PAGES:
        for block in (each for each in blocks_of(page) if each.language == "sh"):
            named, reason = block.remarks.get("typed by"), block.remarks.get("not typed")
            assert not (named and reason), block
            if named:
                file, _, test = named.partition("::")
                text = (ROOT / file).read_text(encoding="utf-8")
                assert f"def {test}(" in text, f"{block}: {named} is not there"
                reads_it = f'"{block.heading}"' in text or str(page.relative_to(ROOT)) in text
                assert reads_it, f"{block}: {named} does not read it"
            elif reason is None and (measured := MEASURED.get(str(page.relative_to(ROOT)))):
                assert (ROOT / measured).exists(), block
            elif reason is None:
                assert page in EXAMPLES or str(page.relative_to(ROOT)) in FOLLOWED, (
                    f"{block}: no test types it, and no reason stands above it"
                )
            typed += reason is None
    assert typed > 50


def test_what_a_pipeline_types_is_typed() -> None:
    """Each command of the pipelines that a page shows stands among those that are typed, as it is."""
    page = ROOT / "docs/howto/call-from-ci.md"
    lines = "".join(step.block.text for step in steps_of(page) if not step.block.title).splitlines()
    typed = {line.partition(" || ")[0] for line in lines}
    shown = [each for step in steps_of(page) if step.block.language == "yaml" for each in _commands_in(step.block.text)]
    assert len(shown) == 3
    assert set(shown) <= typed


def _commands_in(pipeline: str) -> list[str]:
    """What the jobs of GitHub Actions (`run`) or GitLab CI (`script`) run."""
    jobs = yaml.safe_load(pipeline)
    steps = [step for job in jobs.get("jobs", {}).values() for step in job["steps"] if "run" in step]
    return [step["run"] for step in steps] or jobs["deploy"]["script"]


def test_every_block_says_what_it_is() -> None:
    """Without a language nobody, and no test, could tell commands from what they print."""
    for page in PAGES:
        for block in blocks_of(page):
            assert block.language, block
            is_typed = block.text.split(maxsplit=1)[:1] in (["mayfly"], ["curl"], ["sudo"])
            assert block.language in ("sh", "output") or block.title or not is_typed, block


def test_every_page_that_is_followed_has_something_to_do() -> None:
    """A page without a step would be followed to no end."""
    for page in FOLLOWED:
        assert any(step.block.language == "sh" for step in steps_of(ROOT / page)), page


@pytest.mark.parametrize(
    ("told", "said", "same"),
    [
        ("HELLO\n", "HELLO\n", True),
        ("timeout 30 s\n", "timeout 31 s\n", False),
        ("took 1.5 s\n", "took 2.25 s\n", True),
        ("a ... c\n", "a b c\n", True),
        ("a ... c\n", "a b\na stack\nc\n", False),
        ("HELLO\n", "HELLO\nand more\n", False),
        ("HELLO\n...\n", "HELLO\nand more\n", True),
        ("HELLO\n...\nYOU\n", "HELLO\nYOU\n", True),
        ("HELLO\n...\nYOU\n", "HELLO\nand YOU\n", False),
        ("HELLO ... YOU\n", "HELLO and\nmore YOU\n", False),
        ("a   1.5 ms\n", "a 23 ms\n", True),
        ("a   1.5 ms\n", "b 23 ms\n", False),
        ("2026-12-02 10:11:12 x\n", "2027-01-02 00:00:00   x\n", True),
        ("HELLO\n", "", False),
    ],
)
def test_what_is_printed_is_compared(told: str, said: str, same: bool) -> None:
    """Other words are noticed; other times are not."""
    assert prints(told, said) is same


@pytest.mark.parametrize(
    ("typed", "wrong"),
    [
        ("```sh\nfalse\ntrue\n```\n", "page.md:1: status 1"),
        ("```sh\nexit 0\n```\n\n```sh\ntrue\n```\n", "page.md:1: the shell ended here"),
        ("<!-- ends with: 3 -->\n```sh\nfalse\n(exit 3)\n```\n", "page.md:2: status 99"),
        ("<!-- ends with: 3 -->\n```sh\n(exit 3)\n```\n\n```sh\necho a\n```\n\n```output\nb\n```\n", "page.md:10"),
    ],
)
async def test_a_page_that_goes_wrong_is_noticed(typed: str, wrong: str, tmp_path: Path) -> None:
    """A command that fails, a shell that ends early, another status than the page's, other words: each by its line."""
    page = tmp_path / "page.md"
    page.write_text(typed)
    folder = tmp_path / "reader"
    folder.mkdir()

    with pytest.raises(AssertionError, match=re.escape(wrong)):
        await Reader(directory=folder, environment={}).follow(page)
