"""What goes into the container: the command line, the environment and stdin of one call. Rows: F7, F9."""

from __future__ import annotations

from mayfly.containers.runtime import Call
from mayfly.domain.activation import Work
from mayfly.domain.function import ParameterMode
from mayfly.domain.image import ProcessConfig
from mayfly.domain.secret import Delivery, OpenedSecret


def call_of(work: Work, image: ProcessConfig, secrets: tuple[OpenedSecret, ...] = ()) -> Call:
    """
    Say how the function of *work* gets its parameter and its secrets. Both are text, as the API server has made sure.
    """
    function = work.function
    argv = image.command_line(function.command, function.args)
    if function.parameter is ParameterMode.ARGUMENT:
        argv = (*argv, work.parameter.decode())
    stdin = work.parameter if function.parameter is ParameterMode.STDIN else b""
    variables = [(one.key, one.value.decode()) for one in secrets if one.delivery is Delivery.ENVIRONMENT]
    files = tuple((one.key, one.value) for one in secrets if one.delivery is Delivery.FILE)
    return Call(argv=argv, env=(*function.env, *variables, *_own_variables(work)), files=files, stdin=stdin)


def _own_variables(work: Work) -> list[tuple[str, str]]:
    """Tell the function who it is and how long it has; nothing else of ours gets in."""
    variables = [
        ("MAYFLY_FUNCTION", work.function.name),
        ("MAYFLY_ACTIVATION_ID", work.record.id),
        ("MAYFLY_DEADLINE", f"{work.record.deadline_at:.3f}"),
    ]
    if work.traceparent:
        variables.append(("MAYFLY_TRACEPARENT", work.traceparent))
    if work.function.parameter is ParameterMode.ENVIRONMENT:
        variables.append(("MAYFLY_PARAMETER", work.parameter.decode()))
    return variables
