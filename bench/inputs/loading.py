"""Load models and tokenizers from folders with transformers, without remote code and without
pickle."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
import transformers
from accelerate import init_empty_weights
from tokenizers import pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bench.inputs import gguf_header
from bench.inputs.rounded_cache import round_cache
from methods.contract.errors import UserError, first_line
from methods.contract.method import Compute
from methods.model import constant_experts, low_rank_adapter, terms
from methods.model.experts import attach_constants, unfold
from methods.model.folder import Folder, read_config
from methods.model.folder import save as save_tensors
from methods.model.targets import family_of
from methods.workshop.quantizing.inputs import (
    ACTIVATIONS_KEY,
    CACHE_KEY,
    INPUT_FORMATS,
    round_inputs,
)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def load(folder: Path, compute: Compute) -> nn.Module:
    """Load the model in a folder to the device, in eval mode and frozen, with its low-rank terms
    and constant experts.

    With `compute.stream` its blocks stay on disk. A model that processes share is on the CPU. Its
    weights are pages of the files, and each process copies only its part.

    Raises:
        UserError: transformers cannot build it, or processes are to share it and it has constant
            experts.
    """
    constants = constant_experts.read(folder, str(compute.device))
    if constants and compute.is_shared:
        raise UserError(
            "processes cannot share a model with constants in place of experts: use experts:drop= "
            "in place of experts:replace="
        )
    model = add_rounding(_load(folder, compute), folder)
    with _faults(f"low-rank term in {str(folder)!r}"):
        for name, term in low_rank_adapter.read(folder).items():
            terms.attach(model.get_submodule(name), term.to(compute.device))
    attach_constants(model, constants)
    return model


def _load(folder: Path, compute: Compute) -> nn.Module:
    if compute.is_shared:
        return _map(folder, compute.dtype)
    if compute.stream:
        return _load_without_blocks(folder, compute)
    with _faults(f"model in {str(folder)!r}"):
        model, about = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=compute.dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        _require_all(about)
    return unfold(model).to(compute.device).eval().requires_grad_(False)


@contextmanager
def _faults(what: str) -> Iterator[None]:
    """Turn any error of a library about a file into a UserError, whose cause it is. what: words for
    the file."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as fault:
        why = repr(fault) if isinstance(fault, KeyError) else first_line(fault)
        raise UserError(f"{what} cannot be loaded: {why}") from fault


def _require_all(about: dict[str, Any]) -> None:
    """Refuse a loaded model that lacks a parameter. transformers reports it and fills it with
    random numbers."""
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if about.get(kind):
            raise ValueError(
                f"{kind.replace('_', ' ')}: {', '.join(sorted(map(str, about[kind]))[:3])}"
            )


def add_rounding(model: nn.Module, folder: Path) -> nn.Module:
    """Round the inputs of linears, keys and values as the config says, in place: what weights
    cannot store."""
    config = read_config(folder)
    invalid = f"model in {str(folder)!r} cannot be loaded: invalid {{}} in its config.json"
    inputs = config.get(ACTIVATIONS_KEY)
    if inputs is not None:
        modules = dict(model.named_modules())
        about = inputs if isinstance(inputs, dict) else {}
        default = "int8" if about.get("bits") == 8 else ""
        form, names = about.get("format", default), about.get("targets")
        if (
            not isinstance(form, str)
            or form not in INPUT_FORMATS
            or not isinstance(names, list)
            or not all(isinstance(name, str) and name in modules for name in names)
        ):
            raise UserError(invalid.format(ACTIVATIONS_KEY))
        for name in names:
            round_inputs(modules[name], form)
    cache = config.get(CACHE_KEY)
    if cache is not None:
        if not isinstance(cache, dict) or cache.get("bits") not in (4, 8):
            raise UserError(invalid.format(CACHE_KEY))
        round_cache(model, cache["bits"])
    return model


def empty_model(folder: Path, dtype: torch.dtype, what: str = "") -> Any:
    """Build a model from the config of a folder, with parameters on the meta device. what: words
    for the model in an error."""
    with _faults(what or f"model in {str(folder)!r}"), init_empty_weights(include_buffers=False):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()
    return unfold(model)


def _load_without_blocks(folder: Path, compute: Compute) -> nn.Module:
    """Load all but the decoder blocks. Their parameters stay on the meta device until the walk
    loads them."""
    opened = Folder(folder)
    family = family_of(opened.config)
    model = empty_model(folder, compute.dtype)
    for name, parameter in list(model.named_parameters()):
        if family.block_of(name) is None and name in opened:
            _set(model, name, parameter, opened.tensor(name).to(compute.device, compute.dtype))
    model.tie_weights()
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(compute.device))
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def _map(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Load the model in a folder on the CPU with weights that are pages of its files.

    Weights keep their format if `dtype` can hold all its values. Others are converted.
    """
    opened = Folder(folder, mapped=True)
    model = empty_model(folder, dtype)
    for name, parameter in list(model.named_parameters()):
        if name not in opened:
            raise UserError(f"model in {str(folder)!r} cannot be loaded: {name} is missing")
        value = opened.tensor(name)
        if torch.promote_types(value.dtype, dtype) != dtype:
            value = value.to(dtype)
        _set(model, name, parameter, value)
    model.tie_weights()
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def _set(model: nn.Module, name: str, parameter: nn.Parameter, value: torch.Tensor) -> None:
    assert value.shape == parameter.shape, name
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in a folder. Raise UserError if transformers cannot read it."""
    with _faults(f"tokenizer in {str(folder)!r}"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    tokenizer.model_max_length = int(1e12)  # no warning for a whole corpus
    return tokenizer


def convert_gguf(file: Path, target: Path) -> None:
    """Dequantize a GGUF file into a safetensors folder in float32, with its tokenizer, by
    transformers.

    `bench pull` uses the faster `bench.parts.gguf.gguf_folder.write`, which writes the same bytes.
    The check of an exported file reads it with this one, so that transformers itself does.

    transformers (at least up to 5.24) ignores the pre-tokenizer `smollm`, which splits digits, so
    it is added here.
    """
    logging.getLogger("gguf").setLevel(logging.ERROR)
    fields = gguf_header.read(file.resolve()).fields
    with _faults(f"GGUF file {str(file.resolve())!r}"):
        model, about = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
        _require_all(about)
        save_tensors(unfold(model), target)
        config = model.config.to_dict()
        for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
            config.pop(key, None)
        type(model.config).from_dict(
            config | {"architectures": [type(model).__name__]}
        ).save_pretrained(target)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        if fields.get("tokenizer.ggml.pre") == "smollm":
            digits = pre_tokenizers.Digits(individual_digits=True)
            rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
        tokenizer.save_pretrained(target)
