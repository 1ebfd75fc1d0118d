"""The leaderboard: an HTML page, Markdown, CSV, LaTeX and figures, with rows from papers."""

ENTRIES = {"services": {"leaderboard": "bench.parts.leaderboard.command:write_leaderboard"}}
