"""What goes into a container."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from mayfly.domain.activation import Work
from mayfly.domain.function import Function, ParameterMode
from mayfly.domain.ids import FunctionName, UserId
from mayfly.domain.image import ProcessConfig
from mayfly.worker.call import call_of
from tests.unit.domain.test_activation import a_record

IMAGE = ProcessConfig(entrypoint=("/app",), cmd=("run",), env=(("PATH", "/bin"),))


def some_work(parameter: bytes = b"hello", **given: Any) -> Work:
    """Make a message as an API server would."""
    record = a_record()
    function = Function(
        id=record.function_id,
        user_id=UserId(record.user_id),
        name=FunctionName("upper"),
        image="x",
        created_at=1,
        updated_at=1,
    )
    return Work(
        user_id=record.user_id,
        instance=record.instance,
        ulid=record.ulid,
        revision=1,
        record=record,
        function=replace(function, **given),
        parameter=parameter,
        budget_s=30,
    )


@pytest.mark.F7
@pytest.mark.F9
@pytest.mark.parametrize(
    ("mode", "argv", "stdin", "variable"),
    [
        (ParameterMode.STDIN, ("/app", "run"), b"hello", None),
        (ParameterMode.ARGUMENT, ("/app", "run", "hello"), b"", None),
        (ParameterMode.ENVIRONMENT, ("/app", "run"), b"", "hello"),
    ],
)
def test_the_parameter_goes_exactly_one_way(
    mode: ParameterMode, argv: tuple[str, ...], stdin: bytes, variable: str | None
) -> None:
    """A function gets its parameter by stdin, as the last argument or in MAYFLY_PARAMETER, and never twice."""
    call = call_of(_with_mode(mode), IMAGE)

    assert call.argv == argv
    assert call.stdin == stdin
    assert dict(call.env).get("MAYFLY_PARAMETER") == variable


def _with_mode(mode: ParameterMode) -> Work:
    work = some_work()
    return replace(work, function=replace(work.function, parameter=mode))


def test_nothing_of_ours_gets_in_but_these_variables() -> None:
    """A function learns who it is and how long it has: no credentials, no host paths."""
    names = {name for name, _ in call_of(replace(some_work(), traceparent="00-a-b-01"), IMAGE).env}

    assert names == {"MAYFLY_FUNCTION", "MAYFLY_ACTIVATION_ID", "MAYFLY_DEADLINE", "MAYFLY_TRACEPARENT"}


def test_the_functions_own_variables_come_first() -> None:
    """A registration's variables are there, and cannot stand in for ours, which come later and win."""
    env = call_of(some_work(env=(("A", "1"), ("MAYFLY_FUNCTION", "forged"))), IMAGE).env

    assert env[0] == ("A", "1")
    assert dict(env)["MAYFLY_FUNCTION"] == "upper"
