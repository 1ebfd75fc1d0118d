"""Seconds until `bench --help` and `bench ls methods` have answered, and over those of an empty
Python.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from harness import finish, in_turn, ratio, start

COMMANDS = {
    "python": ["-c", "pass"],
    "bench --help": ["-m", "bench", "--help"],
    "bench ls methods": ["-m", "bench", "ls", "methods"],
}


def main() -> None:
    times = in_turn(
        {
            name: lambda c=command: subprocess.run(
                [sys.executable, *c], capture_output=True, check=True
            )
            for name, command in COMMANDS.items()
        },
        11,
    )
    figures = {f"{name}, seconds": round(median(times[name]), 3) for name in list(COMMANDS)[1:]}
    figures |= {f"{name} / python": ratio(times, name, "python") for name in list(COMMANDS)[1:]}
    finish("startup", figures)


if __name__ == "__main__":
    start(main)
