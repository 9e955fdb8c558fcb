"""The one error that a person is meant to read."""


class UserError(Exception):
    """Input that cannot work: the message names the file, line or key, and what to do.

    The command line prints it without a traceback and ends with status 2.
    """


def first_line(error: BaseException) -> str:
    """Return what kind of error a library raised, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
