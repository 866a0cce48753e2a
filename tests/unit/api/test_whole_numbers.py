"""Whole numbers in bodies, as JSON has them: with a point and noughts behind it or without."""

from __future__ import annotations

import pytest

from mayfly.api.admin_shapes import NewInvitation, UserChange
from mayfly.api.shapes import LimitsShape, NewKey, Shape


@pytest.mark.parametrize(
    ("shape", "body", "field"),
    [
        (NewKey, '{"name": "ci", "expires_in_s": %s}', "expires_in_s"),
        (NewInvitation, '{"expires_in_s": %s}', "expires_in_s"),
        (UserChange, '{"max_activations": %s}', "max_activations"),
        (LimitsShape, '{"memory_mib": %s}', "memory_mib"),
        (LimitsShape, '{"max_concurrency": %s}', "max_concurrency"),
    ],
)
def test_a_whole_number_may_have_a_point(shape: type[Shape], body: str, field: str) -> None:
    """JSON knows no other kind of number: 60.0 is 60, and 60.5 is refused, and so is text."""
    assert getattr(shape.model_validate_json(body % "60.0"), field) == 60
    for wrong in ("60.5", '"60"', "true"):
        with pytest.raises(ValueError, match="int"):
            shape.model_validate_json(body % wrong)
