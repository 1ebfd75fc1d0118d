"""From records to a leaderboard that people look at: one page, Markdown, CSV, LaTeX and figures."""
