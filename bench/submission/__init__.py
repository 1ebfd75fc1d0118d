"""Results that others contribute: check a folder, pack it, and say what it changes on the
leaderboard."""
