"""Export the model of a row for other engines: compressed-tensors, GPTQ, AWQ and GGUF, each loaded
and compared."""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench.export import compressed_folder, gguf_file, gptq_folder, llama_cpp
from bench.export.contract import ModelSource
from bench.formats.checkpoint import stored_plain
from bench.inputs import gguf_header, loading, windows
from bench.inputs.hub import mirror
from bench.inputs.models import TOKENIZER_FILES
from bench.results.record import Record
from bench.results.store import RESULTS, ReadOnlyStore
from bench.system.devices import memory_bytes
from bench.verify import FUNCTION_TOLERANCE, CheckFailed, check_function
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.model.targets import find_targets
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY, CACHE_KEY

SENTENCE = (
    "A folder that another program loads must give the logits of the model that was measured."
)
INSTEAD = "use --format hf"
LLAMA_CPP_TOLERANCE = 0.05
"""Largest relative change of logits by llama.cpp, whose products round the activations to int8,
too."""
IMATRIX_SEQUENCES, IMATRIX_LENGTH = 64, 512
"""Number and length of the sequences of an importance matrix."""
ROUNDED_TOLERANCE = 0.5
"""The same where the weights are rounded. A file with other weights is off by more than 1."""


def check(format_: str, model: ModelSource, workdir: Path) -> str:
    """Load a written folder with transformers where it can. Return sentences about its logits and
    its size, "" without a record."""
    folder, record = model.folder, model.record
    if not record:
        return ""
    written, source, identity = Folder(workdir), Folder(folder), record.identity
    if format_ == "compressed-tensors":
        said = _compare(folder, workdir, *compressed_folder.precision(source))
    elif gptq_folder.loads(format_):
        said = _compare(folder, workdir, "float32", FUNCTION_TOLERANCE["float16"])
    else:
        packages = " ".join(gptq_folder.LOADERS[format_])
        said = (
            _check_float16(folder, format_)
            + f"; not loaded by transformers, which needs pip install {packages}"
        )
    targets = set(find_targets(source.config, source.shapes(), identity.include, identity.exclude))
    parts = stored_plain(written.shapes(), written.dtypes()).items()
    count = sum(math.prod(source.shapes()[f"{target}.weight"]) for target in targets)
    bits = (
        8 * sum(size.values for name, size in parts if name.rpartition(".")[0] in targets) / count
    )
    total = sum(file.stat().st_size for file in workdir.glob("*.safetensors"))
    return said + _describe_size(total, bits, record, model.results)


def write_gguf(model: ModelSource, workdir: Path, values: str | None, imatrix: str | None) -> str:
    """Write a GGUF file. Return a sentence. Raise CheckFailed if its tokens or logits differ.

    imatrix: text for the importance matrix of K-quants.
    """
    folder = model.folder
    source = Folder(folder)
    for key, what in ((ACTIVATIONS_KEY, "inputs of linears"), (CACHE_KEY, "keys and values")):
        if source.config.get(key):
            raise UserError(
                f"{folder} rounds {what} while it runs, which no GGUF file says: {INSTEAD}"
            )
    targets = find_targets(source.config, source.shapes(), *model.targets)
    kind = values or gguf_file.kind_of(folder)
    by_llama_cpp = kind not in gguf_file.KINDS
    if by_llama_cpp:
        llama_cpp.require_package(f"--values {kind}")
    elif imatrix:
        raise UserError(
            f"--imatrix {imatrix} is for K-quants, and {kind} is none: use --values q4_k_m, for "
            "example"
        )
    importance = _measure_importance(folder, targets, imatrix) if imatrix else None
    file, threads = workdir / f"model-{kind}.gguf", torch.get_num_threads()
    with tempfile.TemporaryDirectory(dir=workdir) as temporary:
        first = Path(temporary) / "f16.gguf" if by_llama_cpp else file
        rounded = gguf_file.write(
            folder,
            first,
            "f16" if by_llama_cpp else kind,
            targets,
            vocabulary=True,
            instead=INSTEAD,
        )
        if by_llama_cpp:
            llama_cpp.quantize(first, file, kind, threads, importance)
    said = f"{len(targets)} linears stored as {kind}"
    said += (
        f" by llama.cpp{f', weighed by the inputs on {imatrix}' if imatrix else ''}"
        if by_llama_cpp
        else f"; {rounded} of them rounded to it"
        if rounded
        else ", bit for bit"
    )
    said += _check_gguf(
        folder, file, exact=kind == "f16" or not (rounded or by_llama_cpp), threads=threads
    )
    tensors = gguf_header.read(file).tensors
    blocks = [t for name, t in tensors.items() if name.startswith("blk.") and len(t.shape) == 2]
    bits = 8 * sum(t.size for t in blocks) / sum(math.prod(t.shape) for t in blocks)
    return said + _describe_size(file.stat().st_size, bits, model.record, model.results)


@torch.inference_mode()
def _measure_importance(folder: Path, targets: Sequence[str], text: str) -> dict[str, Tensor]:
    """Return the mean square of each input of the linears on a text, by their names in GGUF:
    llama.cpp's importance matrix."""
    model, tokenizer = (
        loading.load(folder, Compute(dtype=torch.float32)),
        loading.load_tokenizer(folder),
    )
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


def _check_gguf(folder: Path, file: Path, *, exact: bool, threads: int) -> str:
    """Load a file with llama.cpp, or with transformers' reader without it, and check its tokens and
    logits.

    exact: no weight is rounded to integers.
    """
    tokenizer = loading.load_tokenizer(folder)
    expected: list[int] = tokenizer(SENTENCE, add_special_tokens=False)["input_ids"]
    tokens, dense = torch.tensor(expected), loading.load(folder, Compute(dtype=torch.float32))
    if importlib.util.find_spec("llama_cpp"):
        engine, tolerance, found = (
            "llama.cpp",
            LLAMA_CPP_TOLERANCE,
            llama_cpp.tokenize(file, SENTENCE),
        )

        def forward(input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=llama_cpp.logits(file, input_ids[0], threads)[None])

        new: Any = forward
    else:
        engine, tolerance = "transformers", FUNCTION_TOLERANCE["float16"]
        with tempfile.TemporaryDirectory(dir=file.parent) as temporary:
            loading.convert_gguf(file, Path(temporary))
            found = loading.load_tokenizer(Path(temporary))(SENTENCE, add_special_tokens=False)[
                "input_ids"
            ]
            new = loading.load(Path(temporary), Compute(dtype=torch.float32))
    error = check_function(dense, new, tokens[None], tolerance if exact else ROUNDED_TOLERANCE)
    if found != expected:
        raise CheckFailed(
            f"{engine} reads {SENTENCE!r} as the tokens {found}, and the tokenizer as {expected}"
        )
    return _describe(engine, error)


def _check_float16(folder: Path, format_: str) -> str:
    """Refuse a model that overflows in float16, as loaders of a format compute. Return a sentence
    if it is unknown here."""
    if sum(file.stat().st_size for file in Folder(folder).files()) > memory_bytes() / 2:
        return "; not computed in float16, because the model takes more than half of the memory"
    has_tokenizer = any((folder / name).exists() for name in TOKENIZER_FILES)
    ids = (
        loading.load_tokenizer(folder)(SENTENCE)["input_ids"] if has_tokenizer else list(range(32))
    )
    model = loading.load(folder, Compute(dtype=torch.float16))
    if not bool(model(input_ids=torch.tensor(ids)[None]).logits.isfinite().all()):
        raise CheckFailed(
            f"this model overflows in float16, in which {format_} folders are computed: use "
            f"{gptq_folder.INSTEAD}"
        )
    return ""


def _compare(before: Path, after: Path, computed: str, tolerance: float) -> str:
    """Check the logits of two folders with transformers. Return a sentence about them. computed:
    number format."""
    tokens = torch.tensor(loading.load_tokenizer(before)(SENTENCE)["input_ids"])[None]
    old, new = (
        loading.load(folder, Compute(dtype=getattr(torch, computed))) for folder in (before, after)
    )
    return _describe("transformers", check_function(old, new, tokens, tolerance))


def _describe(engine: str, error: float) -> str:
    return f"; loaded by {engine}, its logits differ by {error:.2g} of their size"


def _describe_size(total: int, bits: float, record: Record | None, results: Path | None) -> str:
    """Return a sentence about the size of the files beside what the row says."""
    said = f"; {total / 1e6:.4g} MB, {bits:.4g} bits per weight"
    if record is None:
        return said
    same = (r for r in ReadOnlyStore(results or RESULTS) if r.artifact == record.artifact)
    counted = (
        reading.value for r in same for reading in r.readings if reading.metric == "bits_per_weight"
    )
    return said + next((f", where the row counts {value:.4g}" for value in counted if value), "")
