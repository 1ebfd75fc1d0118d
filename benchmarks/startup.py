"""Seconds of `bench --help` and `bench ls methods`, and over those of an empty Python.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from statistics import median

from harness import Figures, finish, in_turn, ratio, start

COMMANDS = {"python": "-c pass", "bench --help": "-m bench --help"}
COMMANDS |= {"bench ls methods": "-m bench ls methods"}


def main(rounds: int = 11) -> None:
    contestants = {}
    for name, words in COMMANDS.items():
        command = [sys.executable, *words.split()]
        contestants[name] = partial(subprocess.run, command, capture_output=True, check=True)
    times = in_turn(contestants, rounds)
    named = list(COMMANDS)[1:]
    figures: Figures = {f"{name}, seconds": round(median(times[name]), 3) for name in named}
    figures |= {f"{name} / python": ratio(times, name, "python") for name in named}
    finish("startup", figures)


if __name__ == "__main__":
    start(main)
