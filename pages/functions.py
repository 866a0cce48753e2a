"""docs/reference/functions.md: what a function's container is given and may use, from mayfly.domain and the API."""

from __future__ import annotations

from mayfly.api.shapes import LimitsShape
from mayfly.domain import limits, secret
from mayfly.domain.function import OWN_VARIABLES, RESERVED_ENV_PREFIX, ParameterMode
from mayfly.domain.secret import Delivery
from pages.page import prose, table

HEAD = """# Functions

<!-- made by scripts/docs from src/mayfly/domain and src/mayfly/api/shapes.py -->

What a function's container is given, and how much it may use. How to write one:
[write a function](../howto/write-a-function.md); what holds it: the `sandbox` of
[GET /v1/functions/{name}](api.md#get-v1functionsname); what starts it: [runtimes](runtimes.md).

It is the image's command, or that of the registration, in a fresh container, once. What it writes to stdout is the
result if it ends with exit code 0; what it writes to stderr is its log.
"""
PARAMETER = {
    ParameterMode.STDIN: "on stdin, which then ends",
    ParameterMode.ARGUMENT: "as the last argument of the command; stdin is empty",
    ParameterMode.ENVIRONMENT: "in `MAYFLY_PARAMETER`; stdin is empty",
}
DELIVERY = {
    Delivery.ENVIRONMENT: "in a variable of the secret's name",
    Delivery.FILE: f"in the file `{secret.DIRECTORY}/NAME`, which the image's user alone may read",
}
FIXED = {
    "PARAMETER_MAX_BYTES": "The longest parameter, on stdin.",
    "ARGUMENT_MAX_BYTES": "The longest parameter as an argument or in the environment: the kernel takes no more.",
    "RESULT_MAX_BYTES": "The longest result. More is `result-too-large`.",
    "STDERR_MAX_BYTES": "How much of stderr is kept: the end of it.",
    "SCRATCH_BYTES": "The writable layer over the image, at most; part of the memory, of which it leaves 16 MiB.",
    "SCRATCH_INODES": "Files and directories in it.",
    "TIMEOUT_MIN_S": "The shortest time-out, in seconds.",
    "TIMEOUT_MAX_S": "The longest.",
    "MEMORY_MIN_MIB": "The least memory, in MiB.",
    "MEMORY_MAX_MIB": "The most.",
    "CPUS_MIN": "The least processor time per time.",
    "CPUS_MAX": "The most.",
    "PIDS_MIN": "The fewest processes and threads.",
    "PIDS_MAX": "The most.",
    "CONCURRENCY_MIN": "The least that a function's `max_concurrency` can be.",
    "CONCURRENCY_MAX": "The most.",
}
"""Of the constants of `mayfly.domain.limits`. One without words, and words without one, stop the page."""


def fixed() -> list[tuple[str, object, str]]:
    """
    Return each limit that no setting moves, with its value and its meaning.

    Raises: ValueError when the code and the words name different limits.
    """
    values = {name: value for name, value in vars(limits).items() if name.isupper() and "_" in name}
    if different := values.keys() ^ FIXED.keys():
        raise ValueError(f"the fixed limits of the code and of {__name__} differ: {', '.join(sorted(different))}")
    return [(name, values[name], words) for name, words in FIXED.items()]


def page() -> str:
    """Write the whole page."""
    return (
        "\n\n".join(
            [
                HEAD.rstrip(),
                "## Environment",
                prose(
                    "Besides the image's variables, those of the registration (`env`) and the secrets. No registration "
                    f"can name one that begins with `{RESERVED_ENV_PREFIX}`."
                ),
                table(("variable", "what it says"), ((f"`{name}`", words) for name, words in OWN_VARIABLES.items())),
                "## The parameter",
                table(
                    ("`parameter`", "how the container gets it", "at most"),
                    ((f"`{mode}`", PARAMETER[mode], f"{mode.max_bytes:,} bytes") for mode in ParameterMode),
                ),
                "## Secrets",
                table(("`as`", "how the container gets it"), ((f"`{way}`", DELIVERY[way]) for way in Delivery)),
                "## Limits of its own\n\nSet at the registration (`limits`).",
                table(("limit", "default", "from", "to", "meaning"), map(_own, LimitsShape.model_fields)),
                "## Limits of every function\n\nNo setting moves them.",
                table(
                    ("limit", "value", "meaning"),
                    ((f"`{name}`", _figure(value), words) for name, value, words in fixed()),
                ),
            ]
        )
        + "\n"
    )


def _own(name: str) -> tuple[str, str, str, str, str]:
    rule = LimitsShape.model_json_schema()["properties"][name]
    [bounds] = [each for each in rule.get("anyOf", [rule]) if "minimum" in each]
    default = "none" if rule["default"] is None else f"`{rule['default']:g}`"
    return f"`{name}`", default, _figure(bounds["minimum"]), _figure(bounds["maximum"]), rule["description"]


def _figure(value: object) -> str:
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}"
