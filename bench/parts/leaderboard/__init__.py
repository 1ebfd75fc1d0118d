"""The leaderboard: HTML pages, Markdown, CSV, LaTeX and figures, with rows from papers; and
`bench table`."""

ENTRIES = {
    "services": {"leaderboard": "bench.parts.leaderboard.command:write_leaderboard"},
    "commands": {"table": "bench.parts.leaderboard.table_command:table"},
}
