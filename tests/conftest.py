"""Environment, options and examples of all tests. Their fixtures are in helpers/fixtures.py."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import hypothesis
import psutil
import pytest

from bench.catalog.parts import found_parts
from bench.system.devices import EAGER, matching_onednn_limit

gc.set_threshold(50_000, 20, 20)  # most of what a test process holds are modules, which stay
for name, level in matching_onednn_limit().items():
    os.environ.setdefault(name, level)  # before torch is imported: its libraries read it once
# NumPy's threads would wait for each other, in each of the processes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Compiling a decoding step takes a minute: tests of it ask for it.
os.environ.setdefault(EAGER, "1")

IN_MEMORY, ROOM = Path("/dev/shm"), 4 * 2**30
"""A file system in memory, and the bytes that must be free in it. Folders of tests that passed are
removed at once, so a run takes 0.2 GB."""


def _holds_folders() -> bool:
    """Return whether the tests' folders fit in memory, and programs in them may run there."""
    if not os.access(IN_MEMORY, os.W_OK) or os.statvfs(IN_MEMORY).f_flag & os.ST_NOEXEC:
        return False
    free = min(shutil.disk_usage(IN_MEMORY).free, psutil.virtual_memory().available / 2)
    return free >= ROOM


# To make and remove their many small files on a disk takes a quarter of all time.
# `pytest --basetemp DIR` and this variable choose another folder.
if _holds_folders():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))

hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("random", deadline=None)
# The same examples, unless tox -e full runs.
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-terminal",
        action="store_true",
        help="write tests/bench/cli/terminal/*.txt anew, to be reviewed",
    )
    parser.addoption(
        "--write-families",
        action="store_true",
        help="write results/families.json anew, which docs/models.md shows",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, except in the process that only hands tests to others: they import torch
    and transformers."""
    hands_out = config.getoption("dist", "no") != "no" and not config.option.collectonly
    if hasattr(config, "workerinput") or not hands_out:
        config.pluginmanager.import_plugin("helpers.fixtures")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that is marked with a part that is not there."""
    for mark in item.iter_markers("parts"):
        if missing := set(mark.args) - found_parts().keys():
            pytest.skip(f"without the part {', '.join(sorted(missing))}")
