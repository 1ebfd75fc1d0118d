"""A model's decoding step, captured once by torch.export and compiled by AOTInductor: no Python
runs between its layers.

The KV cache is static. The compiled code is cached by architecture, shapes and versions. It holds
no weights, so models of one shape share it, 2:4 and dense ones too.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.inputs import kv_cache
from bench.parts.packed24 import native, operators
from bench.parts.packed24.linear24 import Linear24
from bench.parts.packed24.timing import WrongProduct, check_product
from bench.system import digests
from bench.system.cache import cache_dir, in_use, temporary_folder
from bench.system.files import publish
from bench.system.source_digest import digest_modules
from methods.workshop.pruning.activations import replaced

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest error of compiled logits as a fraction of the eager logits' norm. Compiled code rounds to
the dtype less often."""
TRACED = (
    __name__,
    "bench.parts.packed24.operators",
    "bench.parts.packed24.linear24",
    "bench.inputs.kv_cache",
    "methods.workshop.quantizing.inputs",
)
"""Modules whose code a captured step has or is called by. Others change no graph."""
PACKAGE, CONSTANTS = "step.pt2", "constants.safetensors"


class NotCaptured(Exception):
    """A model whose step cannot be captured or compiled here. The message is a short reason."""


class Decoder:
    """A model with a static KV cache of `length` tokens, which decodes a token at a time in
    compiled code.

    compile_s: seconds of capturing and compiling, 0.0 if the cache had the code.
    """

    def __init__(self, model: Any, length: int) -> None:
        self.model, self.length, self.compile_s = model, length, 0.0
        self._cache: list[Tensor] = []
        self._ids = torch.empty(0, 1, dtype=torch.int64)
        self._compiled: Any = None

    @torch.no_grad()
    def prefill(self, ids: Tensor) -> Tensor:
        """Process prompts [batch, tokens] from the beginning. Return logits [batch, 1, vocabulary]
        of their last tokens."""
        cache = kv_cache.make_full(self.model, self.length)
        options = kv_cache.as_argument(self.model, cache) | {"use_cache": True, "logits_to_keep": 1}
        logits: Tensor = self.model(ids, **options).logits
        states = kv_cache.to_tensors(cache)
        if self._compiled is None:
            self._cache, self._ids = states, self._ids.new_empty(len(ids), 1).copy_(ids[:, -1:])
            self._compiled = self._load(
                _Step(self.model), (self._ids, torch.tensor([ids.shape[1] - 1]), states)
            )
        else:
            for own, new in zip(self._cache, states, strict=True):
                own.copy_(new)
        return logits

    @torch.no_grad()
    def step(self, ids: Tensor, position: int) -> Tensor:
        """Process a token of each sequence, [batch, 1], after `position` others. Return logits
        [batch, 1, vocabulary]."""
        # Compiled code reads memory by the strides that its inputs had when it was captured.
        self._ids.copy_(ids)
        logits: Tensor = self._compiled(self._ids, torch.tensor([position]), self._cache)
        return logits

    def generate(self, ids: Tensor, count: int) -> list[int]:
        """Return the `count` most likely tokens after a prompt [1, tokens]."""
        logits, out = self.prefill(ids), []
        for position in range(ids.shape[1], ids.shape[1] + count):
            out.append(int(logits[0, -1].argmax()))
            if len(out) < count:
                logits = self.step(torch.tensor([[out[-1]]]), position)
        return out

    def _load(self, step: _Step, inputs: tuple[Any, ...]) -> Any:
        """Return the compiled step with this model's weights, after a comparison with the eager
        one."""
        options, key = _options(), _key(self.model, inputs)
        folder = cache_dir() / "graphs" / key[:32]
        with in_use(folder.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not folder.exists():
                started = time.monotonic()
                _compile(step, inputs, options, folder)
                self.compile_s = time.monotonic() - started
            compiled = torch._inductor.aoti_load_package(str(folder / PACKAGE))
            known = load_file(folder / CONSTANTS) | _tensors(step)
            constants = {name: known[name] for name in compiled.get_constant_fqns()}
            compiled.load_constants(constants, check_full_update=True, user_managed=True)
        expected = step(*inputs)
        try:
            check_product(
                "the compiled step", compiled(*inputs), expected.float(), TOLERANCE[expected.dtype]
            )
        except WrongProduct as why:
            raise NotCaptured(str(why)) from None
        return compiled


class _Step(nn.Module):
    """The forward pass of one token, with the KV cache as tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.positions = "position_ids" in inspect.signature(model.forward).parameters

    def forward(self, ids: Tensor, position: Tensor, states: list[Tensor]) -> Tensor:
        cache = kv_cache.hold(self.model, states, position[0])
        options = kv_cache.as_argument(self.model, cache) | {"use_cache": True, "logits_to_keep": 1}
        if self.positions:
            options["position_ids"] = position[None].expand(ids.shape[0], -1)
        logits: Tensor = self.model(ids, **options).logits
        return logits


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by each of their names."""
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    return dict(named)


def _compile(
    step: _Step, inputs: tuple[Any, ...], options: Mapping[str, Any], folder: Path
) -> None:
    """Capture the step, compile it, and write it and the constants that are no weights to a folder
    of the cache."""
    with temporary_folder("graph") as workdir, mock.patch.dict(os.environ):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(workdir / "inductor"))
        try:
            with _plain_attention(step.model), _rotary_tables(step.model, inputs[2][0].shape[2]):
                program = torch.export.export(step, inputs, strict=False)
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(workdir / PACKAGE), inductor_configs=dict(options)
            )
        except Exception as fault:  # noqa: BLE001  (any fault of a library here is a reason to stay eager)
            raise NotCaptured(
                f"{type(fault).__name__}: {str(fault).strip().partition(chr(10))[0]}"
            ) from None
        found = {
            n: t
            for n, t in program.constants.items()
            if isinstance(t, Tensor) and n not in _tensors(step)
        }
        made = workdir / "made"
        made.mkdir()
        save_file({name: tensor.clone() for name, tensor in found.items()}, made / CONSTANTS)
        (workdir / PACKAGE).rename(made / PACKAGE)
        publish(made, folder)


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """Let a model compute attention by products and a softmax. torch's fused CPU kernel takes three
    times as long for a token."""
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


class _RotaryTable(nn.Module):
    """Sines and cosines of all positions of a KV cache. The compiler would compute those of a token
    again in each layer."""

    def __init__(self, rotary: nn.Module, dtype: torch.dtype, length: int) -> None:
        super().__init__()
        tables = rotary(torch.empty(0, dtype=dtype), torch.arange(length)[None])
        for name, table in zip(("cosines", "sines"), tables, strict=True):
            self.register_buffer(name, table[0], persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Any, Any]:
        return self.cosines[position_ids], self.sines[position_ids]  # type: ignore[index]


def _rotary_tables(model: Any, length: int) -> AbstractContextManager[None]:
    """Give a model tables in place of rotary embeddings whose frequencies depend on no length."""
    tables = {
        name: _RotaryTable(module, model.dtype, length)
        for name, module in model.named_modules()
        if getattr(module, "rope_type", "") in ("default", "linear", "llama3")
        and [*inspect.signature(module.forward).parameters] == ["x", "position_ids"]
    }
    return replaced(model, tables)


def _options() -> dict[str, Any]:
    """Return AOTInductor's options. Elementwise code of a token is too short for threads."""
    path = native.select_path(native.load())
    return {
        "aot_inductor.custom_ops_to_c_shims": operators.shims(),
        "aot_inductor.package_constants_in_so": False,
        "cpp.threads": 1,
        "aot_inductor.precompile_headers": False,  # making them takes longer than one graph gains
        "cpp.simdlen": 256 if path == "avx2" else None,
    }


def _key(model: Any, inputs: tuple[Any, ...]) -> str:
    """Return a digest of all that decides the compiled code."""
    packed = [m for m in model.modules() if isinstance(m, Linear24)]
    inside = {id(tensor) for module in packed for tensor in module.buffers()}
    named = _tensors(model)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return digests.of(
        [
            digest_modules(*TRACED),
            [importlib.metadata.version(name) for name in ("torch", "transformers")],
            model.config.to_dict() | {"_name_or_path": "", "dtype": str(model.dtype)},
            # A tied tensor is its first name. The layout of a packed weight is read when the kernel
            # is called.
            [
                (n, first[id(t)], str(t.dtype), len(t) if id(t) in inside else [*t.shape])
                for n, t in named.items()
            ],
            [[*t.shape] for t in (*inputs[:2], *inputs[2])],
            native.select_path(native.load()), torch.backends.cpu.get_cpu_capability(),
        ]
    )  # fmt: skip
