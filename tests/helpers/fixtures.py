"""Fixtures of all tests: small random models, and a cache without a way to a hub."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.comparing import seed_noise_table
from bench.inputs import training_text, windows
from bench.results import computed
from bench.results.store import ReadOnlyStore
from helpers import browser, faulty, forked_ranks, models, runs
from helpers.fake_hub import FakeHub
from helpers.trainings import counting, job_to_train
from methods.contract.method import Job

SCRIPTS = Path(__file__).parents[2] / "scripts"
VALIDATION_WINDOWS = training_text.MAX_VALIDATION_WINDOWS


def pytest_collection_finish(session: pytest.Session) -> None:
    """Freeze the garbage collector, and start the process that ranks are forked from."""
    gc.freeze()
    if any(hasattr(item.module, "forked_ranks") for item in session.items):
        forked_ranks.start()


def pytest_sessionfinish() -> None:
    forked_ranks.stop()


@pytest.fixture(scope="session", autouse=True)
def nothing_synced() -> Iterator[None]:
    """Do not wait until files are on the disk: tests lose no power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Compute all answers again: a test may change the code that computes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(computed, "_open", lambda path: None)
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Use one seed, and one thread unless CAST_BENCH_TEST_THREADS says more: models are small, and
    with two threads for so little work each waits for the other. A command run by an earlier test
    leaves others."""
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("CAST_BENCH_TEST_THREADS", "1")))


@pytest.fixture(scope="session", autouse=True)
def encoded_once() -> Iterator[None]:
    """Encode each text once for each tokenizer, and validate on little of it."""
    known: dict[tuple[Any, ...], Any] = {}
    real_encode, real_tokens = windows.encode, training_text._tokens

    def once(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in known:
            known[key] = make()
        return known[key]

    def encode(tokenizer: Any, text: str, first: list[int], **options: Any) -> Any:
        if not hasattr(tokenizer, "backend_tokenizer"):  # a test's own
            return real_encode(tokenizer, text, first, **options)
        key = (tokenizer.backend_tokenizer.to_str(), text, tuple(first), tuple(options.items()))
        return once(key, lambda: real_encode(tokenizer, text, first, **options))

    def tokens(texts: Iterator[str], tokenizer: Any, limit: int | None) -> Iterator[int]:
        if limit or not hasattr(tokenizer, "backend_tokenizer"):
            return real_tokens(texts, tokenizer, limit)
        key = (tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id, whole := tuple(texts))
        return iter(once(key, lambda: array("I", real_tokens(iter(whole), tokenizer, None))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "encode", encode)
        patch.setattr(training_text, "_tokens", tokens)
        patch.setattr(training_text, "MAX_VALIDATION_WINDOWS", 64)
        yield


@pytest.fixture
def as_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate on as much text as a rank in a process of its own."""
    monkeypatch.setattr(training_text, "MAX_VALIDATION_WINDOWS", VALIDATION_WINDOWS)


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make float32 mean float64 within a test."""
    before = torch.get_default_dtype()
    models.mean_float64(monkeypatch)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def make_exact(float64: None) -> Callable[..., nn.Module]:
    """make_exact(family, moved=0.0) -> a model for golden numbers. float32 means float64."""
    return models.exact


@pytest.fixture
def llama() -> nn.Module:
    return models.build("llama")


@pytest.fixture
def job(llama: nn.Module) -> Job:
    return models.job_for(llama)


@pytest.fixture(params=models.sample(models.CONFIGS, *models.REPRESENTATIVES))
def family(request: pytest.FixtureRequest) -> str:
    """Every family. The default run takes a few of them."""
    return request.param


@pytest.fixture
def make() -> Callable[..., nn.Module]:
    """make(family, **kwargs) -> a random model."""
    return models.build


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """make_job(model, pattern, **fields) -> a job over all of its targets."""
    return models.job_for


@pytest.fixture
def refining() -> Callable[..., Job]:
    """refining(model, job) -> the job of a stage that refines magnitude's mask of the model."""
    return models.with_prior


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Job]:
    """task(model, **fields) -> a job that trains on a learnable text: see `job_to_train`."""
    return lambda model, **fields: job_to_train(
        model, models.job_for, counting(), **({"workdir": tmp_path / "work"} | fields)
    )


@pytest.fixture
def keep_as() -> Callable[[nn.Module, Path], Path]:
    """keep_as(model, folder) -> the folder."""
    return models.write


@pytest.fixture
def cli(capsys, monkeypatch):
    """cli(*args) -> exit code, stdout, stderr of the command line, in this process."""
    return lambda *args: runs.call(capsys, monkeypatch, *args)


@pytest.fixture
def refused(cli: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """refused(*args) -> the sentence that a command ends with: exit code 2, nothing on stdout."""

    def run(*args: Any) -> str:
        code, out, err = cli(*args)
        *before, sentence = err.splitlines() or [""]
        assert (code, out) == (2, "") and sentence.startswith("bench: "), out + err
        assert all(line.startswith("fetching ") for line in before), err
        return sentence

    return run


@pytest.fixture
def output(cli: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """output(*args) -> stdout of a command that ends with exit code 0."""

    def run(*args: Any) -> str:
        code, out, err = cli(*args)
        assert code == 0, out + err
        return out

    return run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an own cache, without a way to a hub."""
    return runs.own_cache(tmp_path, monkeypatch)


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `tmp_path` the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of plug-ins with faulty methods and a slow one."""
    return faulty.install(tmp_path_factory.mktemp("faulty"))


@pytest.fixture
def world(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own cache, and the plug-ins in `site` as if they were installed."""
    yield from runs.world(site, tmp_path, monkeypatch)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """installed(name, source, **groups) -> the folder of a distribution, which is on the path."""

    def install(name: str, source: str, **groups: dict[str, str]) -> Path:
        folder = runs.distribution(tmp_path / "site", name, source, **groups)
        runs.put_on_path(folder, monkeypatch)
        return folder

    yield install
    monkeypatch.undo()
    runs.forget()


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file at which the method `waits` stands still until it is gone."""
    path = tmp_path / "gate"
    path.touch()
    monkeypatch.setenv("GATE", str(path))
    return path


@pytest.fixture
def fake_hub(monkeypatch) -> FakeHub:
    """The hub's client, answering from memory."""
    return FakeHub(monkeypatch)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """See `helpers.browser.chromium`."""
    with browser.chromium() as started:
        yield started


@pytest.fixture
def heard() -> list[str]:
    """Collect messages of the console, faults and dialogs of a test's pages."""
    return []


@pytest.fixture(scope="module")
def script(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The module of scripts/ that the test's module names as SCRIPT."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        try:
            yield importlib.import_module(request.module.SCRIPT)
        except ModuleNotFoundError as fault:
            if not str(fault.name).startswith("bench.parts."):
                raise
            pytest.skip(f"without {fault.name}")
        ours = {module.stem for module in SCRIPTS.glob("*.py")}
        for loaded in ours & (set(sys.modules) - before):
            del sys.modules[loaded]


@pytest.fixture
def visit(chromium: Any, file: Path, heard: list[str]) -> Iterator[Callable[..., Any]]:
    """visit(address, **context) -> the page that the fixture `file` of the module wrote."""
    with browser.visits(chromium, file, heard) as go:
        yield go


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Two results folders, before and after a change, not yet there."""
    return tmp_path / "before", tmp_path / "after"


@pytest.fixture(scope="module")
def quantized_row(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """quantized_row(quantizer) -> the results and the record of tiny's size under it, by magnitude,
    in a cache of the module. Two quantizers have a transform of their own."""
    pruned = ("magnitude", "awq + magnitude", "smooth + magnitude")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("rows")
        runs.own_cache(folder, patch)

        def make(quantizer: str, dtype: str = "auto") -> Any:
            results = folder / f"{quantizer.replace(':', '_')}-{dtype}"
            spec = runs.small(results, quantizers=(quantizer,), measures=("size",), dtype=dtype)
            runs.run_here(spec, only=pruned)
            (record,) = (r for r in ReadOnlyStore(spec.results) if r.identity.measure == "size")
            return spec.results, record

        yield make


@pytest.fixture(scope="module")
def known_noise() -> Iterator[None]:
    """Published noise between seeds that no new board changes: 1.6% of perplexity."""
    of_kind = {"deviation": 0.016, "freedom": 1e6, "model": "a published model"}
    with pytest.MonkeyPatch().context() as patch:
        published = {"perplexity": {"one-shot": of_kind}}
        patch.setattr(seed_noise_table, "_read_published", lambda: published)
        yield
