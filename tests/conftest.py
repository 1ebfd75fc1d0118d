"""Random models, small enough to prune in milliseconds."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import support
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from methods.contract import Job, Prior
from methods.folder import save
from methods.pattern import Pattern
from methods.targets import dense_weight, find_targets

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
HALF_SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=5),
    "qwen2": lambda: Qwen2Config(**GROUPED, **HALF_SLIDING),
    "qwen3": lambda: Qwen3Config(**GROUPED, **HALF_SLIDING, head_dim=8),
    "opt": lambda: OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32),
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZES),
}


def pytest_configure(config: pytest.Config) -> None:
    """Make the session's shared folder, unless this process works for one that has."""
    if support.SHARED not in os.environ:
        folder = os.environ[support.SHARED] = tempfile.mkdtemp(prefix="cast-bench-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(support.SHARED, folder), ignore_errors=True))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The order of every sum is fixed; and on models this small a second thread waits longer than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def build(family: str, **kwargs: object) -> nn.Module:
    """A random model, its norms and biases random too: at their initial 1 and 0 a swap of two would not be seen."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), **kwargs).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def job_for(model: nn.Module, pattern: str = "2:4", **fields: object) -> Job:
    """Every target of the model, and 6 calibration sequences of 16 tokens."""
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    tokens = torch.randint(64, (6, 16), generator=torch.Generator().manual_seed(0))
    targets = find_targets(model.config.to_dict(), shapes)
    job = Job(source=Path(), pattern=Pattern.parse(pattern), targets=targets, calibration=tokens)
    return replace(job, **fields)


def with_prior(model: nn.Module, job: Job) -> Job:
    """The job of a stage that refines magnitude's mask; `model` is the dense one."""
    masks = {t: job.pattern.keep(dense_weight(model.get_submodule(t)).abs().float()) for t in job.targets}
    return replace(job, prior=Prior(folder=job.source, masks=masks), teacher=lambda: copy.deepcopy(model))


def write(model: nn.Module, folder: Path) -> Path:
    """The model as a folder that loads."""
    model.config.save_pretrained(folder)
    return save(model, folder)


@pytest.fixture
def llama() -> nn.Module:
    return build("llama")


@pytest.fixture
def job(llama: nn.Module) -> Job:
    return job_for(llama)


@pytest.fixture(params=CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
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
    return lambda *args: support.call(capsys, monkeypatch, *args)
