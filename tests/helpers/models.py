"""Random models of every family, small enough to prune in milliseconds, and jobs over them."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from bench.formats.stored import StoredFolder
from bench.formats.stored import write as write_stored
from bench.inputs import loading
from bench.inputs.models import COMPANIONS
from helpers.runs import TINY
from methods.contract.codec import StoredWeight
from methods.contract.method import Compute, Job, Outcome, Prior
from methods.contract.pattern import Pattern
from methods.model.experts import unfold
from methods.model.folder import Folder, save
from methods.model.targets import dense_weight, find_targets

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip

GROUPED = SIZES | {"num_key_value_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
"""Special tokens within the vocabulary. The defaults of some families are larger."""
ALTERNATING = {
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}

HALF_SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
CAPS = {"final_logit_softcapping": 0.2, "attn_logit_softcapping": 0.5}
SCALES = {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.3}
TWO_OF_SIX = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
TWO_OF_FOUR = {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": ROPE}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "mistral": lambda: hf.MistralConfig(**GROUPED, sliding_window=5),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED, **HALF_SLIDING),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED, **HALF_SLIDING, head_dim=8),
    "opt": lambda: hf.OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32),
    "gpt2": lambda: hf.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SIZES),
    "gemma": lambda: hf.GemmaConfig(**GROUPED, **TOKENS, head_dim=16),
    "gemma2": lambda: hf.Gemma2Config(**GROUPED, **TOKENS, **ALTERNATING, **CAPS, head_dim=16),
    "gemma3_text": lambda: hf.Gemma3TextConfig(**GROUPED, **TOKENS, **ALTERNATING, head_dim=16),
    "phi3": lambda: hf.Phi3Config(**GROUPED, **TOKENS, sliding_window=5),
    "olmo2": lambda: hf.Olmo2Config(**GROUPED, **TOKENS),
    "olmo3": lambda: hf.Olmo3Config(**GROUPED, **TOKENS, **ALTERNATING),
    "granite": lambda: hf.GraniteConfig(**GROUPED, **SCALES, residual_multiplier=0.22),
    "smollm3": lambda: hf.SmolLM3Config(**GROUPED, **TOKENS, no_rope_layers=[1, 0, 1]),
    "starcoder2": lambda: hf.Starcoder2Config(**GROUPED, **TOKENS, sliding_window=5),
    "mixtral": lambda: hf.MixtralConfig(**GROUPED, **TOKENS, num_local_experts=4),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(**GROUPED, **TOKENS, **TWO_OF_SIX, head_dim=16),
    "olmoe": lambda: hf.OlmoeConfig(**GROUPED, **TOKENS, num_experts=4, num_experts_per_tok=2),
    "granitemoe": lambda: hf.GraniteMoeConfig(**GROUPED, **TOKENS, **SCALES, num_local_experts=4),
    "gpt_oss": lambda: hf.GptOssConfig(
        **GROUPED, **TOKENS, **ALTERNATING, **TWO_OF_FOUR, head_dim=16
    ),
}
"""The caps of gemma2 are so small that they bend the logits of random weights."""


REPRESENTATIVES = ("llama", "gpt2", "gpt_oss")
"""Families of the default run: plain, with weights [in, out], and a mixture."""


def sample(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Return parameters for a test. The default run takes those in `kept`. A tuple is several."""
    out = []
    for value in values:
        several = value if isinstance(value, tuple) else (value,)
        out.append(pytest.param(*several, marks=() if value in kept else pytest.mark.full))
    return out


def build(family: str, **kwargs: object) -> nn.Module:
    """Build a random model as the loader does."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), **kwargs)
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return unfold(model)


def mean_float64(patch: pytest.MonkeyPatch) -> None:
    """Let the name float32 mean float64, for the code and for transformers, until the patch is
    undone.

    Rounding, 1e-16, then shows in no figure of six digits and turns no near tie of random numbers.
    """
    patch.setattr(torch, "float32", torch.float64)
    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
    patch.setattr(nn.Module, "float", nn.Module.double)
    torch.set_default_dtype(torch.float64)


def exact(family: str, moved: float = 0.0) -> nn.Module:
    """Build a random model in float64 whose weights are integers over 2^23. torch's normal numbers
    differ between processors.

    moved: by how much of themselves the weights are moved, for what that must not change.
    """
    model = build(family).double()
    dice = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        level = parameter.mean().round()  # 1 for the weight of a norm, else 0
        steps = torch.randint(-(2**20), 2**20, parameter.shape, generator=dice)
        parameter.copy_(level + steps / 2**23)
        parameter.mul_(1 + moved * torch.rand(parameter.shape, generator=dice))
    return model


def job_for(model: nn.Module, pattern: str = "2:4", **fields: object) -> Job:
    """Return a job with every target of the model and 6 calibration sequences of 16 tokens."""
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    tokens = torch.randint(64, (6, 16), generator=torch.Generator().manual_seed(0))
    targets = find_targets(model.config.to_dict(), shapes)
    job = Job(source=Path(), pattern=Pattern.parse(pattern), targets=targets, calibration=tokens)
    return replace(job, **fields)


def with_prior(model: nn.Module, job: Job) -> Job:
    """Return the job of a stage that refines magnitude's mask. `model` is the dense one."""
    weights = {target: dense_weight(model.get_submodule(target)) for target in job.targets}
    masks = {target: job.pattern.keep(w.abs().float()) for target, w in weights.items()}
    prior = Prior(folder=job.source, masks=masks)
    return replace(job, prior=prior, teacher=lambda: copy.deepcopy(model))


def write(model: nn.Module, folder: Path) -> Path:
    """Write the model to a folder that loads."""
    model.config.save_pretrained(folder)
    return save(model, folder)


def store(stored: Mapping[str, StoredWeight], folder: Path, pattern: str = "dense") -> StoredFolder:
    """Write stored weights as the runner does, and open them."""
    shapes = {target: tuple(one.decode().shape) for target, one in stored.items()}
    write_stored(folder, stored, shapes, Pattern.parse(pattern))
    return StoredFolder(folder)


def random_folder(family: str, folder: Path, **values: object) -> Path:
    """Write a random model with tiny's tokenizer. values: changes of its config."""
    torch.manual_seed(0)
    config = CONFIGS[family]()
    for name, value in {"vocab_size": 1024, **values}.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    write(unfold(model), folder)
    for name in COMPANIONS:
        if (TINY / name).exists():
            shutil.copy2(TINY / name, folder / name)
    return folder


def same_to_the_bit(streamed: Outcome, memory: Outcome, source: Path) -> None:
    """Assert that a streamed method wrote the model that it leaves in memory."""
    want = memory.model.state_dict()
    shutil.copyfile(source / "config.json", streamed.model / "config.json")
    written = Folder(streamed.model)
    assert set(written) == set(Folder(source))
    for name in written:
        assert written.tensor(name).dtype == want[name].dtype
        assert torch.equal(written.tensor(name), want[name]), name
    compute = Compute(dtype=next(iter(want.values())).dtype)
    for name, tensor in loading.load(streamed.model, compute).state_dict().items():
        assert torch.equal(tensor, want[name]), name
    assert streamed.stored.keys() == memory.stored.keys()
    for name, one in streamed.stored.items():
        assert torch.equal(one.decode(), memory.stored[name].decode()), name
