"""The package's build hook: compiles the C programs that a worker needs and puts them into the wheel."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("src/mayfly/containers/native")


class NativeBuildHook(BuildHookInterface[Any]):
    """Runs for wheels, the editable ones of a checkout included."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tag the wheel for this machine: it is for any Python 3, but for one architecture."""
        del version
        build = runpy.run_path(str(Path(self.root) / NATIVE / "build.py"))["build"]
        for program in build():
            build_data["force_include"][str(program)] = f"mayfly/containers/native/bin/{program.name}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
