"""Functions: an image reference with a name. create, list, show, update, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mayfly.cli import sandbox, secrets
from mayfly.cli.exits import Refused
from mayfly.cli.output import columns, pairs, say, short_digest
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client import Function, Limits, Spec

app = typer.Typer(no_args_is_help=True, help="Your functions: an image reference with a name.")
app.add_typer(secrets.app, name="secrets")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The function's name.", show_default=False)]
Image = Annotated[
    str,
    typer.Argument(metavar="IMAGE", help="An image reference: busybox, user/image:tag, ...", show_default=False),
]
NewImage = Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="Another image reference.")]
Command = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="COMMAND",
        help="The program to run and its arguments, in place of the image's own. Write -- before them.",
        show_default=False,
    ),
]
Args = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="WORD", help="An argument for the image's own program; repeat it for more."),
]
Env = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="A variable; repeat it for more. No secrets.")
]
UnsetEnv = Annotated[list[str] | None, typer.Option("--unset-env", metavar="NAME", help="Remove a variable.")]
OwnCommand = Annotated[bool, typer.Option("--own-command", help="Run the image's own command and arguments again.")]
Parameter = Annotated[
    Literal["stdin", "argument", "environment"] | None,
    typer.Option(
        help="How the container gets the parameter: on stdin (default), as last argument, or in the variable "
        "MAYFLY_PARAMETER."
    ),
]
Memory = Annotated[int | None, typer.Option(metavar="MIB", help="Memory in MiB, files included (default 128).")]
Cpus = Annotated[float | None, typer.Option(metavar="N", help="Processors (default 1.0).")]
Pids = Annotated[int | None, typer.Option(metavar="N", help="Processes and threads at once (default 64).")]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="The longest a call may take (default 30).")]
MaxConcurrency = Annotated[
    str | None,
    typer.Option(metavar="N", help="Activations in flight at once, waiting and running; none for no limit (default)."),
]
ResultType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="The media type of results (default text/plain; charset=utf-8).")
]
Network = Annotated[
    Literal["none", "egress"] | None,
    typer.Option(
        help="What it can reach: nothing but itself (default), or the internet as far as the operator allows."
    ),
]
Pull = Annotated[bool, typer.Option("--pull", help="Resolve the image's tag anew, though it is the same.")]


@app.command()
@connected
async def create(
    terminal: Terminal,
    name: Name,
    image: Image,
    command: Command = None,
    *,
    arg: Args = None,
    env: Env = None,
    parameter: Parameter = None,
    memory: Memory = None,
    cpus: Cpus = None,
    pids: Pids = None,
    timeout: Timeout = None,
    max_concurrency: MaxConcurrency = None,
    result_type: ResultType = None,
    network: Network = None,
) -> None:
    """
    Register a function.

    The image is fetched first, so what cannot be had is not registered.

    Example: mayfly functions create upper busybox -- tr a-z A-Z

    Example: mayfly functions create resize ghcr.io/me/resize:2 --memory 512 --env QUALITY=80

    Example: mayfly functions create report ghcr.io/me/report:1 --max-concurrency 2

    Example: mayfly functions create notify ghcr.io/me/notify:1 --network egress
    """
    from mayfly.client import Limits, Spec

    limits = _given(memory_mib=memory, cpus=cpus, pids=pids, timeout_s=timeout) | _concurrency(max_concurrency)
    given = _given(
        command=command or None, args=arg or None, parameter=parameter, result_type=result_type, network=network
    )
    spec = Spec(image=image, env=_variables(env), limits=Limits(**limits), **given)
    async with terminal.client() as client, terminal.waiting(f"Fetching {image}"):
        function = await client.create_function(name, spec)
    terminal.done(function, f"{name} is registered: {_image(function)}")
    _say_if_pending(function)


@app.command("list")
@connected
async def list_(terminal: Terminal) -> None:
    """
    List your functions.

    Example: mayfly functions list --json
    """
    async with terminal.client() as client:
        functions = [function async for function in client.functions()]
    head = ("NAME", "IMAGE", "DIGEST", "STATE", "TIMEOUT", "MEMORY", "UPDATED")
    terminal.answer(functions, columns(head, map(_row, functions)))


@app.command()
@connected
async def show(
    terminal: Terminal,
    name: Name,
    *,
    whole_sandbox: Annotated[
        bool,
        typer.Option("--sandbox", help="Also all that its calls are held in, and what is lost with other drivers."),
    ] = False,
) -> None:
    """
    Show a function as it is registered, and, with --sandbox, the sandbox that its calls run in.

    Example: mayfly functions show upper

    Example: mayfly functions show upper --sandbox
    """
    async with terminal.client() as client:
        function = await client.function(name)
    held_in = sandbox.lines(function.sandbox) if whole_sandbox else sandbox.summary(function.sandbox)
    terminal.answer(function, pairs([*_lines(function), *held_in]))


@app.command()
@connected
async def update(
    terminal: Terminal,
    name: Name,
    command: Command = None,
    *,
    image: NewImage = None,
    pull: Pull = False,
    own_command: OwnCommand = False,
    arg: Args = None,
    env: Env = None,
    unset_env: UnsetEnv = None,
    parameter: Parameter = None,
    memory: Memory = None,
    cpus: Cpus = None,
    pids: Pids = None,
    timeout: Timeout = None,
    max_concurrency: MaxConcurrency = None,
    result_type: ResultType = None,
    network: Network = None,
) -> None:
    """
    Change a function: what you name of it; the rest stays.

    Calls that were admitted before run as they were.

    Example: mayfly functions update upper --pull --timeout 5

    Example: mayfly functions update upper --max-concurrency none

    Example: mayfly functions update upper -- tr A-Z a-z
    """
    from msgspec.structs import replace

    limits = _given(memory_mib=memory, cpus=cpus, pids=pids, timeout_s=timeout) | _concurrency(max_concurrency)
    given = _given(
        image=image,
        parameter=parameter,
        result_type=result_type,
        network=network,
        command=command or None,
        args=arg or None,
    )
    if own_command:
        given = {"command": None, "args": None} | given
    async with terminal.client() as client:
        before = await client.function(name)
        variables = _changed(before.env, _variables(env), unset_env or [])
        spec = replace(before.spec, limits=replace(before.limits, **limits), env=variables, **given)
        async with terminal.waiting(f"Fetching {spec.image}"):
            function = await client.replace_function(name, spec, if_match=before.etag, pull=pull)
    terminal.done(function, f"{name} is changed: {_image(function)}")
    _say_if_pending(function)


@app.command()
@connected
async def delete(terminal: Terminal, name: Name) -> None:
    """
    Deregister a function.

    New and waiting calls are refused, running ones finish.

    Example: mayfly functions delete upper
    """
    async with terminal.client() as client:
        await client.delete_function(name)
    terminal.done({"deleted": name}, f"{name} is deregistered.")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _concurrency(text: str | None) -> dict[str, int | None]:
    """Read --max-concurrency, where `none` takes a limit away; what is not given is not changed."""
    if text is None:
        return {}
    if text == "none":
        return {"max_concurrency": None}
    try:
        return {"max_concurrency": int(text)}
    except ValueError:
        raise Refused(f"--max-concurrency takes a number or none, and {text!r} is neither.") from None


def _variables(words: list[str] | None) -> dict[str, str]:
    """Read NAME=VALUE words."""
    variables = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise Refused(f"--env takes NAME=VALUE, and {word!r} is not that.")
        variables[name] = value
    return variables


def _changed(before: dict[str, str], given: dict[str, str], unset: list[str]) -> dict[str, str]:
    for name in unset:
        if name not in before:
            raise Refused(f"--unset-env: the function has no variable {name!r}.")
    return {name: value for name, value in before.items() if name not in unset} | given


def _image(function: Function) -> str:
    return f"{function.image} is {short_digest(function.digest)}." if function.digest else f"{function.image}."


def _say_if_pending(function: Function) -> None:
    if function.state == "pending":
        say("It is pending: no worker could be asked for the image in time. The first call will wait for it.")


def _row(function: Function) -> tuple[object, ...]:
    limits = function.limits
    return (
        function.name,
        function.image,
        short_digest(function.digest),
        function.state,
        f"{limits.timeout_s:g} s",
        f"{limits.memory_mib} MiB",
        function.updated_at,
    )


def _lines(function: Function) -> list[tuple[str, object]]:
    limits: Limits = function.limits
    spec: Spec = function
    return [
        ("name", function.name),
        ("image", spec.image),
        ("digest", function.digest),
        ("state", function.state),
        ("command", _words(spec.command)),
        ("args", _words(spec.args)),
        *(("env", f"{name}={value}") for name, value in spec.env.items()),
        ("parameter", spec.parameter),
        ("memory", f"{limits.memory_mib} MiB"),
        ("cpus", f"{limits.cpus:g}"),
        ("pids", limits.pids),
        ("timeout", f"{limits.timeout_s:g} s"),
        ("max concurrency", limits.max_concurrency),
        ("result type", spec.result_type),
        ("network", spec.network),
        *(("secret", key) for key in function.secrets),
        ("created", function.created_at),
        ("updated", function.updated_at),
    ]


def _words(words: list[str] | None) -> str | None:
    import shlex

    return None if words is None else shlex.join(words)
