"""What follows what, drawn in docs/explanation/life-of-an-activation.md from mayfly.domain.activation.TRANSITIONS."""

from __future__ import annotations

from collections.abc import Iterator

from mayfly.domain.activation import TRANSITIONS, State

BEGIN, END = "<!-- Drawn by scripts/docs. -->\n", "<!-- Drawn until here. -->\n"


def drawing() -> Iterator[str]:
    """Draw what follows what as a tree, in which a state that is not final has a branch of its own."""
    [first] = set(TRANSITIONS) - {state for after in TRANSITIONS.values() for state in after}
    yield first
    yield from branches(first, "")


def branches(state: State, indent: str) -> Iterator[str]:
    """Draw what follows *state*, in the order in which the code names the states."""
    after = [each for each in State if each in TRANSITIONS[state]]
    for each in after:
        last = each is after[-1]
        yield f"{indent}{'└' if last else '├'}─> {each}"
        yield from branches(each, f"{indent}{' ' if last else '│'}   ")


def table() -> Iterator[str]:
    """Write what follows what as a table."""
    yield from ("| from | to |", "|---|---|")
    for state in State:
        if not state.is_final:
            yield f"| `{state}` | {', '.join(f'`{each}`' for each in State if each in TRANSITIONS[state])} |"


def page(text: str) -> str:
    """
    Put drawing and table between the marks of a page.

    Raises: ValueError when it has none.
    """
    head, _, rest = text.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"The page has no place for the states: {BEGIN.strip()} ... {END.strip()}")
    lines = ["", "```text", *drawing(), "```", "", *table(), ""]
    return head + BEGIN + "\n".join(lines) + "\n" + END + tail
