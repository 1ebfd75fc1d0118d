"""Tables, and the leaderboard as HTML, Markdown, CSV, LaTeX and figures."""
