"""
Build the examples here, without docker and without the internet, and push them to a registry on the loopback.

    python -m examples.build HOST:PORT [NAME...]

With docker it is `docker build examples/NAME` as for any image; the Dockerfiles are beside the sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from examples.oci import Image, push

HERE = Path(__file__).resolve().parent
LEFT_OUT = {
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "ensurepip",
    "distutils",
    "__pycache__",
    "pydoc_data",
}
PYTHON = Path("/usr/bin/python3").resolve()


def python() -> Image:
    """Put this machine's Python, its standard library and the shared libraries they need into an image."""
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": "/usr"}))
    shared = _shared_libraries(PYTHON, *library.glob("lib-dynload/*.so"))
    return _of_this_machine(PYTHON, *_standard_library(library), *shared, links={"python3": PYTHON, "python": PYTHON})


def node() -> Image:
    """Put this machine's Node and the shared libraries it needs into an image."""
    program = Path(shutil.which("node") or "/usr/bin/node").resolve()
    return _of_this_machine(program, *_shared_libraries(program), links={"node": program})


def _of_this_machine(program: Path, *others: Path, links: Mapping[str, Path]) -> Image:
    members = []
    for name, target in links.items():
        link = tarfile.TarInfo(f"usr/local/bin/{name}")
        link.type, link.linkname = tarfile.SYMTYPE, str(target)
        members.append(link)
    files = {str(path): path for path in (program, *others)}
    return Image(files=files, modes=dict.fromkeys(files, 0o755), members=members, cmd=(program.name,))


def _python(name: str) -> Image:
    return _added(python(), name, "function.py", user="1234", entrypoint=("python3", "/function.py"), cmd=None)


def _javascript(name: str) -> Image:
    return _added(node(), name, "function.js", entrypoint=("node", "/function.js"), cmd=None)


def _shell(name: str) -> Image:
    return _added(Image(), name, "function.sh", cmd=("/bin/sh", "/function.sh"))


def _added(image: Image, example: str, file: str, **config: Any) -> Image:
    return replace(image, files={**image.files, f"/{file}": HERE / example / file}, **config)


def _go(name: str) -> Image:
    """Compile it to one static program, which is all that is in its image."""
    with tempfile.TemporaryDirectory(prefix="mayfly-go-") as directory:
        program = Path(directory) / name
        subprocess.run(
            ["go", "build", "-o", program, "."],
            cwd=HERE / name,
            env={**os.environ, "CGO_ENABLED": "0", "GOCACHE": f"{directory}/cache", "GOFLAGS": "-buildvcs=false"},
            check=True,
        )
        content = program.read_bytes()
    return Image(files={f"/{name}": content}, modes={f"/{name}": 0o755}, busybox=False, entrypoint=(f"/{name}",))


IMAGES: dict[str, Callable[[], Image]] = {
    "upper": partial(Image, cmd=("/bin/sh",)),
    **{name: partial(_python, name) for name in ("charge", "json-python")},
    **{name: partial(_shell, name) for name in ("fail", "sleep", "mebibyte", "misbehave", "total")},
    "words": partial(_javascript, "words"),
    "factor": partial(_go, "factor"),
}
"""What makes the image of each example."""

PLAIN: dict[str, Callable[[], Image]] = {"python": python, "node": node}
"""Of this machine's interpreters, for functions whose code is an argument. Built when named."""

PROGRAMS = {"words": "node", "node": "node", "factor": "go"}
"""What an image is made of or by, if not every machine that Mayfly runs on has it."""


def _standard_library(library: Path) -> Iterator[Path]:
    for path in sorted(library.rglob("*")):
        parts = set(path.relative_to(library).parts)
        if path.is_file() and not parts & LEFT_OUT and path.suffix in {".py", ".so"} and "dist-packages" not in parts:
            yield path


def _shared_libraries(*programs: Path) -> list[Path]:
    """What the loader would load, by the paths it looks them up under."""
    found: set[Path] = set()
    for program in programs:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for line in listing.splitlines():
            words = line.split()
            path = words[2] if "=>" in words and len(words) > 2 else words[0] if words else ""
            if path.startswith("/"):
                found.add(Path(path))
    return sorted(found)


def main(registry: str, *names: str) -> None:
    """Build and push these, or all; those are left out for which this machine lacks a program."""
    for name in names or IMAGES:
        program = PROGRAMS.get(name)
        if program and not shutil.which(program):
            print(f"{name} is left out: this machine has no {program}", file=sys.stderr)
            continue
        reference = f"{registry}/{name}:1"
        print(f"{reference}@{push((IMAGES | PLAIN)[name](), reference)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
