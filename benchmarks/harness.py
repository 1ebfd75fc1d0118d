"""Tools of all benchmarks: pairs timed in turn in one run, ratios of medians, and a record of the
machine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no benchmark waits for the hub

from bench.execution.processes import worker_environment
from bench.system import provenance
from bench.system.cache import cache_dir

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
T = TypeVar("T")


def like_a_worker() -> None:
    """Start this program over in the environment that `bench run` gives its workers, unless that is
    here."""
    environment = worker_environment()
    path = environment.get("PYTHONPATH", "").split(os.pathsep)
    if (
        own := str(Path(__file__).resolve().parent)
    ) not in path:  # workers do not search the script's folder
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [own, *path]))
    if environment != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def start(main: Callable[..., None]) -> None:
    """Run a benchmark: the parameters of `main` are its options, and the docstring of its file is
    its help."""
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    names = {"help_option_names": ["-h", "--help"]}
    app.command(help=sys.modules["__main__"].__doc__, context_settings=names)(main)
    app()


def split(names: str, known: Collection[str]) -> list[str]:
    """Return the names of an option, which commas separate. End this program if one is not
    known."""
    found = names.split(",")
    if unknown := [name for name in found if name not in known]:
        sys.exit(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return found


def fresh_cache(folder: Path) -> dict[str, str]:
    """Return the environment of a `bench` whose cache is folder/cache: the corpora and the kernel
    are in it, and nothing else."""
    for part in ("data", "native"):
        if (cache_dir() / part).is_dir():
            shutil.copytree(cache_dir() / part, folder / "cache" / part)
    return os.environ | {"CAST_BENCH_CACHE": str(folder / "cache")}


def call(module: str, words: str, *more: object, environment: dict[str, str] | None = None) -> None:
    """Run a module with the words of a text and more arguments, or end this program with the end of
    its output.

    environment: variables beside those of this process.
    """
    command = [sys.executable, "-m", module, *words.split(), *map(str, more)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | (environment or {}), check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def apart(work: Callable[..., T], *arguments: object) -> T:
    """Run a function of the benchmark's file in a new process. Print and return what it returns.

    The new process inherits the environment. Linux starts its ru_maxrss at the peak of this
    process, so a peak is the function's only if it is higher. An error of the function is raised
    here, with its traceback.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(work, *arguments).result()
    print(work.__name__, *arguments, found, file=sys.stderr, flush=True)
    return found


def draw_tokens(folder: Path, sequences: int, seqlen: int, draw: int = 0) -> Any:
    """Calibration from wiki-mini for the model in `folder`: a tensor [sequences, seqlen] of token
    ids."""
    import torch

    from bench.inputs import loading, windows

    tokenizer = loading.load_tokenizer(folder)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    return torch.tensor(
        windows.draw_calibration("wiki-mini", sequences, seqlen, draw, encode, None)
    )


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def in_turn(
    contestants: dict[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each, A B C A B C ..., so that a machine that slows down slows all of them.

    clock: time.process_time does not count what other processes take, but adds up threads and their
    waiting in a spin.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(rounds):
        for name, work in contestants.items():
            times[name].append(seconds(work, clock))
            print(
                f"round {i + 1}/{rounds}: {name} {times[name][-1]:.3f} s",
                file=sys.stderr,
                flush=True,
            )
    return times


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> dict[str, float]:
    """slow/fast round by round: median, least and most."""
    pairs = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
    return {
        "median": round(statistics.median(pairs), 3),
        "min": round(min(pairs), 3),
        "max": round(max(pairs), 3),
    }


def recorded(name: str) -> dict[str, Any]:
    """Return the figures of results/benchmarks/NAME.json."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())["figures"]
    return found


def finish(name: str, figures: dict[str, Any]) -> None:
    """Print the figures and leave them in results/benchmarks/NAME.json."""
    print(json.dumps(figures, indent=1))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"figures": figures, "provenance": provenance.gather()}, indent=1) + "\n"
    )
