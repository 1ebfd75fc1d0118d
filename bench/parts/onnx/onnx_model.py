"""Write a model as ONNX: one graph for prompts and decoding, with the KV cache as inputs and
outputs.

The names and axes of inputs and outputs are those of Optimum, so that its runtime loads the folder:
input_ids, attention_mask, position_ids, past_key_values.N.key and .value; logits, present.N.key and
.value.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.formats.loaded import RANDOM_TOKENS
from bench.inputs import kv_cache, loading
from bench.parts.onnx import onnx_file
from bench.system.packages import pip_install, require
from bench.system.suggest import describe_unknown
from bench.verify import CheckFailed, name_pattern
from methods.contract.errors import UserError, first_line
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model.folder import dtype_name, read_config
from methods.model.targets import family_of
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY, CACHE_KEY

FILE = "model.onnx"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2}
"""Largest difference of a logit from the source's, as a fraction of the largest logit (at least
1)."""
OPSET = 20
PRODUCER = "cast-bench"
Names = tuple[list[str], list[str]]


class Flat(nn.Module):
    """A causal language model whose KV cache is a tuple of tensors: key, value of each block."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.wrapped = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Return logits and the cache.

        input_ids, position_ids: [batch, tokens]. attention_mask: [batch, past + tokens].
        """
        out = self.wrapped(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **kv_cache.as_argument(self.wrapped, kv_cache.from_tensors(past)),
        )
        return out.logits, *_new_cache(out)


def write(
    folder: Path,
    workdir: Path,
    dtype: str | None,
    pattern: Pattern | None,
    include: tuple[str, ...] = ("*",),
    exclude: tuple[str, ...] = (),
) -> str:
    """Export the model in `folder`, then count its pattern in the file and compare logits. Returns
    a sentence.

    Args:
        dtype: name in DTYPES. None: the dtype of the folder's weights, or float32 if it is not in
            DTYPES.
        pattern: pattern of the targets in the file, or None for the sparsest that holds.
        include, exclude: globs of the targets.

    Raises:
        UserError: an unknown dtype, a missing package, a model that rounds its inputs, a mixture of
            experts, or a model that torch cannot export.
        CheckFailed: the pattern does not hold in the file, or the logits differ from the model's.
    """
    require("onnx", "onnxscript", "onnxruntime", what="ONNX", how=pip_install("onnx"))
    config = read_config(folder)
    if dtype is not None and dtype not in DTYPES:
        raise UserError(describe_unknown("dtype", dtype, DTYPES))
    if {ACTIVATIONS_KEY, CACHE_KEY} & config.keys():
        raise UserError(
            f"the model in {folder} rounds inputs, keys or values while it runs, which this ONNX "
            "export cannot represent: export it with another quantizer, or none"
        )
    if family_of(config).experts:
        raise UserError(
            f"a mixture of experts ({config['model_type']}) cannot be exported to ONNX: the "
            "number of tokens of an expert depends on the text, which torch's exporter does not "
            "support; use --format hf"
        )
    kind = DTYPES.get(
        dtype or str(config.get("dtype") or config.get("torch_dtype") or ""), torch.float32
    )
    model: Any = loading.load(folder, Compute(dtype=kind))
    cache = _empty_cache(model)
    try:
        _export(Flat(model), cache, workdir / FILE)
    except torch.onnx.OnnxExporterError as fault:
        why = first_line(fault.__cause__ or fault)
        raise UserError(
            f"a model of the family {config['model_type']} cannot be exported to ONNX by torch "
            f"{torch.__version__}: {why}"
        ) from fault
    file = onnx_file.OnnxFile(workdir / FILE)
    if pattern is None:
        pattern, _ = name_pattern(map(file.weight, file.targets()), is_quantized=True)  # only n:m
    counts = file.count(pattern, include, exclude)
    if counts.violations:
        raise CheckFailed(f"{pattern.broken_in(counts.violations)} of the ONNX file")
    about = "" if pattern.dense else f", {pattern} in {len(counts.layers)} linears"
    return f"opset {OPSET}, {dtype_name(kind)}{about}; {_compare(model, cache, workdir / FILE)}"


def _new_cache(output: Any) -> list[Tensor]:
    """Return the KV cache of an output: key, value of each block. transformers 5.24 renamed it."""
    cache = output.cache if hasattr(output, "cache") else output.past_key_values
    return kv_cache.to_tensors(cache)


def _empty_cache(model: Any) -> list[Tensor]:
    """Return an empty KV cache in the model's own shapes: key, value of each block."""
    with torch.inference_mode():
        out = model(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=True)
    return [torch.zeros_like(tensor[:, :, :0]) for tensor in _new_cache(out)]


def _names(blocks: int) -> Names:
    """Return the names of inputs and outputs."""
    kinds = [(i, kind) for i in range(blocks) for kind in ("key", "value")]
    inputs = [
        "input_ids",
        "attention_mask",
        "position_ids",
        *(f"past_key_values.{i}.{kind}" for i, kind in kinds),
    ]
    return inputs, ["logits", *(f"present.{i}.{kind}" for i, kind in kinds)]


def _arguments(cache: list[Tensor], batch: int, tokens: int, past: int) -> tuple[Any, ...]:
    """Return arguments of Flat: random tokens after a random cache."""
    rng = torch.Generator().manual_seed(0)
    filled = tuple(
        torch.randn(batch, c.shape[1], past, c.shape[3], generator=rng).to(c.dtype) for c in cache
    )
    return (
        torch.randint(RANDOM_TOKENS, (batch, tokens), generator=rng),
        torch.ones(batch, past + tokens, dtype=torch.int64),
        torch.arange(past, past + tokens).repeat(batch, 1),
        filled,
    )


def _export(model: Flat, cache: list[Tensor], path: Path) -> None:
    batch, tokens, past = (
        torch.export.Dim(n) for n in ("batch_size", "sequence_length", "past_sequence_length")
    )
    # torch derives it from past and tokens.
    total = torch.export.Dim.DYNAMIC
    shapes = (
        {0: batch, 1: tokens},
        {0: batch, 1: total},
        {0: batch, 1: tokens},
        ({0: batch, 2: past},) * len(cache),
    )
    inputs, outputs = _names(len(cache) // 2)
    with _quiet():
        program: Any = torch.onnx.export(
            model,
            _arguments(cache, batch=2, tokens=3, past=5),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    onnx_file.name_weights(program.model, prefix="wrapped.")
    program.model.producer_name, program.model.producer_version = (
        PRODUCER,
        f"torch {torch.__version__}",
    )
    program.save(path)


def _compare(model: Any, cache: list[Tensor], path: Path) -> str:
    """Require equal logits, but for rounding, from onnxruntime and torch for a prompt and the next
    token. Return a sentence.

    The next token uses the KV cache computed from the prompt. With a random cache, rounding in
    float16 can exceed the tolerance.
    """
    dtype = cache[0].dtype
    if dtype not in TOLERANCES:
        return f"logits not compared: onnxruntime has no {dtype_name(dtype)} on a CPU"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs, _ = _names(len(cache) // 2)
    largest, filled = 0.0, tuple(c.expand(2, -1, -1, -1) for c in cache)
    with torch.inference_mode(), _quiet():
        for tokens, past in ((8, 0), (1, 8)):
            ids, mask, positions, _ = _arguments(cache, batch=2, tokens=tokens, past=past)
            values = [value.numpy() for value in (ids, mask, positions, *filled)]
            logits, *filled = Flat(model)(ids, mask, positions, filled)
            expected = logits.float()
            got = torch.from_numpy(
                session.run(["logits"], dict(zip(inputs, values, strict=True)))[0]
            ).float()
            difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=1))
            if not difference <= TOLERANCES[dtype]:
                raise CheckFailed(
                    f"logits of the ONNX file differ from the model's by {difference:.2g} of the "
                    "largest: the export cannot be used"
                )
            largest = max(largest, difference)
    return f"logits in onnxruntime differ by {largest:.1g} of the largest at most"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's progress and deprecation warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
