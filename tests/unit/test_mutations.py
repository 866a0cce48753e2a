"""What `scripts/mutate` takes out is there, and the tests that must fail then are as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation import Mutation
from tests.mutations import MUTATIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.safeguard)
def test_a_safeguard_can_be_taken_out(mutation: Mutation) -> None:
    """The code to be changed stands in its file, and each test named for it in its own."""
    assert mutation.old in (ROOT / mutation.file).read_text()
    assert mutation.new != mutation.old
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text()
