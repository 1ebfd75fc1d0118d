"""Tools of all benchmarks: pairs timed in turn, ratios of medians, and a record of the machine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no benchmark waits for the hub

from bench.execution.processes import worker_environment
from bench.system import provenance
from bench.system.cache import cache_dir

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "benchmarks"
MODEL = "smollm2-135m-instruct-q4"
T = TypeVar("T")
Figures = dict[str, Any]
"""Named numbers, ratios and texts of a benchmark."""


def say(*words: object) -> None:
    """Print progress, which is no part of the figures."""
    print(*words, file=sys.stderr, flush=True)


def like_a_worker() -> None:
    """Restart this program in the environment that `bench run` gives its workers, if need be."""
    environment = worker_environment()
    path = environment.get("PYTHONPATH", "").split(os.pathsep)
    own = str(Path(__file__).resolve().parent)
    # Workers do not search the script's folder.
    if own not in path:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [own, *path]))
    if environment != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def start(main: Callable[..., None]) -> None:
    """Run a benchmark. Its options are the parameters of `main`, its help the file's docstring."""
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    names = {"help_option_names": ["-h", "--help"]}
    app.command(help=sys.modules["__main__"].__doc__, context_settings=names)(main)
    app()


def split(names: str, known: Collection[str]) -> list[str]:
    """Return the comma-separated names of an option. Exit if a name is not known."""
    found = names.split(",")
    if unknown := [name for name in found if name not in known]:
        sys.exit(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return found


def fresh_cache(folder: Path) -> dict[str, str]:
    """Return the environment of a `bench` with a cache, folder/cache, of corpora and kernel."""
    for part in ("data", "native"):
        if (cache_dir() / part).is_dir():
            shutil.copytree(cache_dir() / part, folder / "cache" / part)
    return os.environ | {"CAST_BENCH_CACHE": str(folder / "cache")}


def call(module: str, words: str, *more: object, environment: Mapping[str, str] = {}) -> None:
    """Run a module with the words of a text and more arguments. Exit with its output if it fails.

    environment: variables beside those of this process.
    """
    command = [sys.executable, "-m", module, *words.split(), *map(str, more)]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
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
    say(work.__name__, *arguments, found)
    return found


def open_model(name: str = MODEL) -> tuple[Any, Any, tuple[str, ...]]:
    """Return a bundled or downloaded model, its folder, and the names of its targets."""
    from bench.inputs import download
    from methods.model.targets import find_targets

    found = download.pull(name)
    opened = found.open()
    return found, opened, find_targets(opened.config, opened.shapes())


def make_method(section: str, name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return a method of a section of the catalog with these settings."""
    from bench.catalog import registry
    from bench.catalog.choice import build

    return build(registry.lookup(section, name), name, dict(settings or {}))


def magnitude_masks(model: Any, targets: Collection[str], pattern: Any) -> dict[str, Any]:
    """Return magnitude's mask of each target."""
    from methods.model.targets import dense_weight

    return {t: pattern.keep(dense_weight(model.get_submodule(t)).abs()) for t in targets}


def draw_tokens(folder: Path, sequences: int, seqlen: int, draw: int = 0) -> Any:
    """Return calibration from wiki-mini for a model's folder: token ids [sequences, seqlen]."""
    import torch

    from bench.inputs import loading, windows

    tokenizer = loading.load_tokenizer(folder)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    drawn = windows.draw_calibration("wiki-mini", sequences, seqlen, draw, encode, None)
    return torch.tensor(drawn)


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that a function takes."""
    started = clock()
    work()
    return clock() - started


def in_turn(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each, A B C A B C ..., so that a slower machine slows all of them.

    clock: time.process_time does not count what other processes take, but adds up threads and their
    waiting in a spin.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(rounds):
        for name, work in contestants.items():
            times[name].append(seconds(work, clock))
            say(f"round {i + 1}/{rounds}: {name} {times[name][-1]:.3f} s")
    return times


def figure_of(runs: Mapping[str, list[dict[str, float]]], what: str) -> dict[str, list[float]]:
    """Return one figure of every run, by contestant."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for name, of_name in runs.items():
        found[name] += [run[what] for run in of_name]
    return found


def spread(median: float, low: float, high: float) -> dict[str, float]:
    """Return a ratio and its spread in the form of the records."""
    return {"median": round(median, 3), "min": round(low, 3), "max": round(high, 3)}


def ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> dict[str, float]:
    """Return slow/fast round by round: median, least and most."""
    pairs = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
    return spread(statistics.median(pairs), min(pairs), max(pairs))


def significant(value: float, digits: int = 2) -> float:
    """Return a number with this many significant digits."""
    return float(f"{value:.{digits}g}")


def recorded(name: str) -> Figures:
    """Return the figures of results/benchmarks/NAME.json, none if it does not exist."""
    file = RESULTS / f"{name}.json"
    found: Figures = json.loads(file.read_text())["figures"] if file.exists() else {}
    return found


def finish(name: str, figures: Figures) -> None:
    """Print the figures, and write them to results/benchmarks/NAME.json."""
    print(json.dumps(figures, indent=1))
    RESULTS.mkdir(parents=True, exist_ok=True)
    saved = {"figures": figures, "provenance": provenance.gather()}
    (RESULTS / f"{name}.json").write_text(json.dumps(saved, indent=1) + "\n")
