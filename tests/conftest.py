"""Random models, small enough to prune in milliseconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from bench.system.devices import matching_onednn_limit

for name, level in matching_onednn_limit().items():
    os.environ.setdefault(name, level)  # before torch is imported: its libraries read it once

import torch
from torch import nn

from helpers import browser, runs
from helpers.fake_hub import FakeHub
from helpers.models import CONFIGS, REPRESENTATIVES, build, exact, job_for, mean_float64, sample, with_prior, write
from methods.contract import Job

hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "same")
)  # the same examples, unless tox -e full runs


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-terminal", action="store_true", help="write tests/bench/cli/terminal/*.txt anew, to be reviewed"
    )
    parser.addoption(
        "--write-families", action="store_true", help="write results/families.json anew, which docs/models.md shows"
    )


@pytest.fixture(scope="session", autouse=True)
def threads() -> Iterator[None]:
    """One, unless CAST_BENCH_TEST_THREADS says more: on models this small a second waits longer than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("CAST_BENCH_TEST_THREADS", "1")))
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In this test float32 means float64."""
    before = torch.get_default_dtype()
    mean_float64(monkeypatch)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def make_exact(float64: None) -> Callable[..., nn.Module]:
    """make_exact(family, moved=0.0) -> a model for golden numbers, in a test whose float32 means float64."""
    return exact


@pytest.fixture
def llama() -> nn.Module:
    return build("llama")


@pytest.fixture
def job(llama: nn.Module) -> Job:
    return job_for(llama)


@pytest.fixture(params=sample(CONFIGS, *REPRESENTATIVES))
def family(request: pytest.FixtureRequest) -> str:
    """Every family. The default run takes a few of them."""
    return request.param


@pytest.fixture
def make() -> Callable[..., nn.Module]:
    """make(family, **kwargs) -> a random model."""
    return build


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """make_job(model, pattern, **fields) -> a job over all of its targets."""
    return job_for


@pytest.fixture
def refining() -> Callable[..., Job]:
    """refining(model, job) -> the job of a stage that refines magnitude's mask of the model."""
    return with_prior


@pytest.fixture
def keep_as() -> Callable[[nn.Module, Path], Path]:
    """keep_as(model, folder) -> the folder."""
    return write


@pytest.fixture
def cli(capsys, monkeypatch):
    """cli(*args) -> exit code, stdout, stderr of the command line, in this process."""
    return lambda *args: runs.call(capsys, monkeypatch, *args)


@pytest.fixture
def fake_hub(monkeypatch) -> FakeHub:
    """The hub's client, answering from memory."""
    return FakeHub(monkeypatch)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """See `helpers.browser.chromium`."""
    with browser.chromium() as started:
        yield started
