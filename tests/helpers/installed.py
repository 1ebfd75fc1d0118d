"""Command lines without those of parts that are not there."""

from bench.catalog import registry


def with_commands(lines):
    """The lines, as words or as text, whose command is there, and the writer of a page."""
    found = []
    for line in lines:
        command, *words = line.split() if isinstance(line, str) else line
        writes_page = command == "report" and "--out" in words
        if not registry.is_installed("commands", command):
            continue
        if writes_page and not registry.is_installed("services", "leaderboard"):
            continue
        found.append(line)
    return found
