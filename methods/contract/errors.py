"""Errors with a message for the user."""

DECIDES_NO_NUMBER = True


class UserError(Exception):
    """Bad input: one sentence that says what is wrong and what to do. The command line prints it
    and exits with 2."""


class Skipped(Exception):
    """This machine or model cannot do it, with the reason. Recorded as a skipped row, not as a
    failure."""


class Diverged(Exception):
    """Training diverged. Recorded as a result, not as an error."""


def first_line(fault: object) -> str:
    """Return the first line of what a fault says, or the name of its class."""
    return next(iter(str(fault).strip().splitlines()), type(fault).__name__)
