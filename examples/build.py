"""
Build the examples here, without docker and without the internet, and push them to a registry on the loopback.

    python -m examples.build HOST:PORT

With docker it is `docker build examples/NAME` as for any image; the Dockerfiles are beside the sources.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from examples.oci import Image, push

HERE = Path(__file__).resolve().parent
PYTHON_EXAMPLES = ("charge", "json-python")
SHELL_EXAMPLES = ("fail", "sleep", "mebibyte", "misbehave")
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


def images() -> dict[str, Image]:
    """Say what is in each example's image."""
    made = {"upper": Image(cmd=("/bin/sh",))}
    made |= {name: python_image(HERE / name / "function.py") for name in PYTHON_EXAMPLES}
    for name in SHELL_EXAMPLES:
        script = HERE / name / "function.sh"
        made[name] = Image(files={"/function.sh": script}, cmd=("/bin/sh", "/function.sh"))
    return made


def python_image(function: Path) -> Image:
    """Put this machine's Python, its standard library and the shared libraries they need into an image."""
    files: dict[str, bytes | str | Path] = {"/function.py": function, str(PYTHON): PYTHON}
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": "/usr"}))
    for path in _standard_library(library):
        files[str(path)] = path
    for path in [*_shared_libraries(PYTHON), *_shared_libraries(*library.glob("lib-dynload/*.so"))]:
        files[str(path)] = path
    modes = {path: 0o755 for path in files if path != "/function.py"}
    return Image(files=files, modes=modes, user="1234", entrypoint=(str(PYTHON), "/function.py"))


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


def main(registry: str) -> None:
    """Build and push all."""
    for name, image in images().items():
        reference = f"{registry}/{name}:1"
        print(f"{reference}@{push(image, reference)}")


if __name__ == "__main__":
    main(sys.argv[1])
