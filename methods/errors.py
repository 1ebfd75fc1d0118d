"""The one error a user is meant to read."""


class UserError(Exception):
    """Bad input, in one sentence that names the thing, its value and the way out. The CLI prints it and exits 2."""


class Diverged(Exception):
    """A training that left the road: not an error of the suite, but its finding."""
