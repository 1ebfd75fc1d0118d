"""Results that others contribute: check a folder, pack it, and say what it changes on the
leaderboard."""

ENTRIES = {"commands": {"submit": "bench.parts.submission.command:submit"}}
