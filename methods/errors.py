"""The one error a user is meant to read."""


class UserError(Exception):
    """Bad input, in one sentence that names the thing, its value and the way out. The CLI prints it and exits 2."""


class Skipped(Exception):
    """Not here, and why in a phrase, such as a device there is none of. A row, and no failure."""


class Diverged(Exception):
    """A training that left the road: not an error of the suite, but its finding."""
