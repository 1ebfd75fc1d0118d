"""Calls of functions: the measure `bfcl`, with the questions of the Berkeley Function Calling
Leaderboard."""

ENTRIES = {"measures": {"bfcl": "bench.parts.tool_calls.bfcl:Bfcl"}}
