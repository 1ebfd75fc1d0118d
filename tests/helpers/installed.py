"""Command lines without those of parts that are not there."""

from bench.catalog import registry


def with_commands(lines):
    """The lines, as words or as text, whose command is there."""
    found = []
    for line in lines:
        words = line.split() if isinstance(line, str) else line
        if registry.is_installed("commands", words[0]):
            found.append(line)
    return found
