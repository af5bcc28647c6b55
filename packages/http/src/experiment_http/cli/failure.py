"""How a command fails: with one line for the person at the terminal, and an exit code."""

FAILED = 1
USAGE = 2


class CommandFailed(Exception):  # noqa: N818 - what is told to a person, not a fault of the program
    """The command cannot do what it was asked for; the text is one line that says why."""


class UsageError(Exception):
    """The command was called wrongly; the text is one line that says how."""


def one_line(problem: object) -> str:
    """`problem` as a line of printable characters."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    return "".join(character if character.isprintable() else "�" for character in text)
