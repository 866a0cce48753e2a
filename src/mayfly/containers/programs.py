"""Where the C programs are, and how the init gets to where containers can reach it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from mayfly.domain.errors import RuntimeFailed

BUILT = Path(__file__).parent / "native" / "bin"
SPAWN, INIT, USERNS = "mayfly-spawn", "mayfly-init", "mayfly-userns"
CONFINE, LAUNCH = "mayfly-confine", "mayfly-launch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Those that stay outside where they were built, the init where containers can reach it."""

    spawn: Path
    launch: Path
    init: Path
    userns: Path


def install_programs(place: Path, launcher_dir: Path | None = None) -> Programs:
    """
    Find the programs (in *launcher_dir*, else in the package) and copy the init to *place*, readable by all.

    Raises: RuntimeFailed when they have not been built, with the remedy.
    """
    spawn, launch, userns = (find_program(name, launcher_dir) for name in (SPAWN, LAUNCH, USERNS))
    built = find_program(INIT, launcher_dir)
    init = place / INIT
    shutil.copyfile(built, init)
    init.chmod(0o555)
    return Programs(spawn=spawn, launch=launch, init=init, userns=userns)


def find_program(name: str, launcher_dir: Path | None = None) -> Path:
    """
    Find a program, in *launcher_dir* or else in the package.

    Raises: RuntimeFailed when it has not been built, with the remedy.
    """
    program = (launcher_dir or BUILT) / name
    if not program.is_file():
        raise RuntimeFailed(
            f"{program} is missing. Installing the package builds it; in a checkout, scripts/setup does."
        )
    return program
