"""Export a model as a GGUF file, loaded again and compared."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.formats.contract import ModelSource
from bench.formats.loaded import SENTENCE, describe_bytes, describe_error
from bench.formats.stored import StoredFolder
from bench.formats.stored_grids import describe_outer
from bench.inputs import llamacpp, loading, windows
from bench.inputs.hub import mirror
from bench.parts.gguf import gguf_file
from bench.verify import FUNCTION_TOLERANCE, CheckFailed, check_function
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.model.targets import family_of, find_targets
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY, CACHE_KEY

INSTEAD = "use --format hf"
LLAMA_CPP_TOLERANCE = 0.05
"""Largest relative change of logits by llama.cpp, whose products round the activations to int8,
too."""
ROUNDED_TOLERANCE = 0.5
"""The same where the weights are rounded. A file with other weights is off by more than 1."""
IMATRIX_SEQUENCES, IMATRIX_LENGTH = 64, 512
"""Number and length of the sequences of an importance matrix."""


def write(model: ModelSource, workdir: Path, values: str | None, imatrix: str | None) -> str:
    """Write a GGUF file. Return a sentence. Raise CheckFailed if its tokens or logits differ.

    imatrix: text for the importance matrix of K-quants.
    """
    from gguf import GGUFReader

    folder = model.folder
    source = Folder(folder)
    for key, what in ((ACTIVATIONS_KEY, "inputs of linears"), (CACHE_KEY, "keys and values")):
        if source.config.get(key):
            raise UserError(
                f"{folder} rounds {what} while it runs, which no GGUF file says: {INSTEAD}"
            )
    targets = find_targets(source.config, source.shapes(), *model.targets)
    kind = values or gguf_file.kind_of(folder)
    by_llama_cpp = kind not in gguf_file.WRITTEN_TYPES
    if kind in ("iq2_xxs", "iq2_xs", "iq3_xxs") and not imatrix:
        raise UserError(
            f"llama.cpp makes {kind} with an importance matrix alone: add --imatrix wiki-mini"
        )
    if by_llama_cpp:
        llamacpp.require_package(f"--values {kind}")
    elif imatrix:
        raise UserError(
            f"--imatrix {imatrix} is for K-quants, and {kind} is none: use --values q4_k_m, for "
            "example"
        )
    if family_of(source.config).experts:
        llamacpp.require_package("a mixture of experts as GGUF")
        if imatrix:
            raise UserError("--imatrix has no importance of experts: leave it out")
    if gguf_file.is_stretched(source.config):
        llamacpp.require_package("the rotary embedding of LLaMA 3.1 as GGUF")
    importance = _measure_importance(folder, targets, imatrix) if imatrix else None
    file, threads = workdir / f"model-{kind}.gguf", torch.get_num_threads()
    with tempfile.TemporaryDirectory(dir=workdir) as temporary:
        first = Path(temporary) / "f16.gguf" if by_llama_cpp else file
        written = "f16" if by_llama_cpp else kind
        rounded = gguf_file.write(folder, first, written, targets, vocabulary=True, instead=INSTEAD)
        if by_llama_cpp:
            llamacpp.quantize(first, file, kind, threads, importance)
    said = f"{len(targets)} linears stored as {kind}"
    if by_llama_cpp:
        said += " by llama.cpp"
        if imatrix:
            said += f", weighed by the inputs on {imatrix}"
    elif rounded:
        said += f"; {rounded} of them rounded to it"
    else:
        said += ", bit for bit"
    said += describe_outer(StoredFolder(folder)) if not by_llama_cpp else ""
    is_exact = kind == "f16" or not (rounded or by_llama_cpp)
    said += _check(folder, file, exact=is_exact, threads=threads)
    stored = weights = 0
    for tensor in GGUFReader(file).tensors:
        is_matrix = len(tensor.shape) > 1 and "ffn_gate_inp" not in tensor.name
        if tensor.name.startswith("blk.") and is_matrix:
            stored += int(tensor.n_bytes)
            weights += int(tensor.n_elements)
    return said + describe_bytes(model, file.stat().st_size, 8 * stored / weights)


@torch.inference_mode()
def _measure_importance(folder: Path, targets: Sequence[str], text: str) -> dict[str, Tensor]:
    """Return the mean square of each input of the linears on a text, by their names in GGUF:
    llama.cpp's importance matrix."""
    model = loading.load(folder, Compute(dtype=torch.float32))
    tokenizer = loading.load_tokenizer(folder)
    config: Any = model.config
    length = min(IMATRIX_LENGTH, config.max_position_embeddings)
    crops = windows.draw_calibration(
        text,
        IMATRIX_SEQUENCES,
        length,
        0,
        lambda document: list(tokenizer(document)["input_ids"]),
        mirror(None),
    )
    squares: dict[str, Tensor] = {}

    def add(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda _, args: squares.update(
            {name: squares.get(name, 0) + args[0].square().sum((0, 1))}
        )

    for target in targets:
        model.get_submodule(target).register_forward_pre_hook(
            add(gguf_file.name_of(target, config))
        )
    for crop in crops:
        model(input_ids=torch.tensor([crop]), use_cache=False)
    return {name: total / (len(crops) * length) for name, total in squares.items()}


def _check(folder: Path, file: Path, *, exact: bool, threads: int) -> str:
    """Load a file with llama.cpp, or with transformers' reader without it, and check its tokens and
    logits.

    exact: no weight is rounded to integers.
    """
    tokenizer = loading.load_tokenizer(folder)
    expected: list[int] = tokenizer(SENTENCE, add_special_tokens=False)["input_ids"]
    tokens, dense = torch.tensor(expected), loading.load(folder, Compute(dtype=torch.float32))
    new: Any
    if importlib.util.find_spec("llama_cpp"):
        engine, tolerance = "llama.cpp", LLAMA_CPP_TOLERANCE
        found = llamacpp.tokenize(file, SENTENCE)
        new = llamacpp.LlamaCppModel(file, threads)
    else:
        engine, rounded_to = "transformers", str(Folder(folder).config.get("dtype", "float32"))
        # The folder's weights are rounded to its number format, and the file's scales to float16.
        tolerance = max(FUNCTION_TOLERANCE["float16"], FUNCTION_TOLERANCE[rounded_to])
        with tempfile.TemporaryDirectory(dir=file.parent) as temporary:
            loading.convert_gguf(file, Path(temporary))
            own = loading.load_tokenizer(Path(temporary))
            found = own(SENTENCE, add_special_tokens=False)["input_ids"]
            new = loading.load(Path(temporary), Compute(dtype=torch.float32))
    if not exact:
        tolerance = ROUNDED_TOLERANCE
    error = check_function(dense, new, tokens[None], tolerance)
    if found != expected:
        raise CheckFailed(
            f"{engine} reads {SENTENCE!r} as the tokens {found}, and the tokenizer as {expected}"
        )
    return describe_error(engine, error)
