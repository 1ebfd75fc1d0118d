"""Models of five tools, read by `folder:path=`: logits against each tool's own loader, and bits.

python benchmarks/folders.py draw     tokens for the scripts in benchmarks/other_tools
python benchmarks/folders.py compare  with IDS and what the scripts wrote, by TOOLS, in this folder

Between the two, bench run --config results/smollm2-folders/spec.toml ran in this folder, and its
records are in ROWS.

Every script runs in a separate environment: the packages are at its top. Each but llama.cpp's is
given the folder of smollm2-135m-instruct-q4; llama.cpp's is given the GGUF file that the folder was
made from.
"""

from __future__ import annotations

import json
import math
import struct
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gguf import GGUFReader
from harness import (
    MODEL,
    ROOT,
    Figures,
    call,
    draw_tokens,
    finish,
    like_a_worker,
    open_model,
    start,
)

from bench.inputs import download, loading
from bench.parts.folders.folder_method import ModelFolder
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from methods.contract.method import Compute, Job
from methods.contract.pattern import Pattern

TOOLS = {
    "llm-compressor, 2:4": "smollm2-2of4-llm-compressor",
    "ten lines, 2:4": "smollm2-2of4-ten-lines",
    "llm-compressor, W4A16": "smollm2-W4A16-llm-compressor",
    "auto-round, GPTQ": "smollm2-gptq-auto-round",
    "llama.cpp, Q4_K_M": "smollm2-Q4_K_M.gguf",
}
STORED_DENSE = "smollm2-2of4-ten-lines"
"""Model with zeros in its file. Its bits are compared with those of its packed24 export."""
IDS, ROWS, PROMPT = Path("ids.npz"), ROOT / "results" / "smollm2-folders", ROOT / "LICENSE"
MAX_DIFFERENCE = 0.01
"""Largest relative difference between counted bits and those in a file."""


Targets = tuple[str, ...]


class FileParts(NamedTuple):
    """Bytes of a file, counted from its own header and without this suite's readers."""

    targets: int
    """Bytes of the tensors of linears in decoder blocks."""
    others: int
    """Bytes of all other tensors."""
    whole: int


def draw() -> None:
    """Write calibration [16, 256] from wiki-mini, and the first 64 tokens of another text."""
    folder = download.pull(MODEL).folder
    prompt = loading.load_tokenizer(folder)(PROMPT.read_text())["input_ids"][:64]
    calibration = draw_tokens(folder, 32, 512)[:16, :256].numpy()
    np.savez(IDS, calibration=calibration, probe=np.array(prompt))


def compare() -> None:
    torch.set_num_threads(1)
    _, original, targets = open_model()
    weights = sum(math.prod(original.shapes()[f"{target}.weight"]) for target in targets)
    probe = torch.tensor(np.load(IDS)["probe"][None])
    figures = {}
    for tool, name in TOOLS.items():
        figures[tool] = _compare_bits(name, targets, weights)
        figures[tool] |= _compare_logits(name, original.path, targets, probe)
    finish("folders", figures)


def _compare_bits(name: str, targets: Targets, weights: int) -> Figures:
    """Return the bits per weight of the record and of the file, and the parts of the file in MB."""
    bits = _recorded_bits(f"folder:path={name}")
    parts = _parts(Path(name), targets)
    stored = parts
    if name == STORED_DENSE:
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / "packed"
            call("bench", "export --format packed24", name, "--out", packed)
            stored = _parts(packed, targets)
    in_file = 8 * stored.targets / weights
    if abs(bits / in_file - 1) > MAX_DIFFERENCE:
        sys.exit(f"{name}: the record has {bits} bits per weight, and the file {in_file}")
    return {
        "bits per weight, counted": round(bits, 3),
        "bits per weight, in the file": round(in_file, 3),
        "file, MB": round(parts.whole / 1e6, 2),
        "linears, MB": round(parts.targets / 1e6, 2),
        "other tensors, MB": round(parts.others / 1e6, 2),
        "header and vocabulary, MB": round((parts.whole - parts.targets - parts.others) / 1e6, 2),
    }


def _recorded_bits(stage: str) -> float:
    """Return the bits per weight that `bench run` recorded."""
    records = newest(ReadOnlyStore(ROWS))
    found = (r for record in records if record.identity.stages == (stage,) for r in record.readings)
    (bits,) = (reading.value for reading in found if reading.metric == "bits_per_weight")
    return float(bits or 0)


def _parts(path: Path, targets: Targets) -> FileParts:
    """Read the sizes of tensors from the headers of a GGUF file or a folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    sizes = {True: 0, False: 0}
    if path.is_file():
        for tensor in GGUFReader(path).tensors:
            # Every matrix of a LLaMA's block is a linear.
            linear = tensor.name.startswith("blk.") and len(tensor.shape) == 2
            sizes[linear] += int(tensor.n_bytes)
    else:
        for file in files:
            for name, entry in _header(file).items():
                modules = (name.rpartition(".")[0], name.rpartition(".weight.")[0])
                start, end = entry["data_offsets"]
                sizes[any(module in targets for module in modules)] += end - start
    return FileParts(sizes[True], sizes[False], sum(file.stat().st_size for file in files))


def _header(file: Path) -> Figures:
    """Return the entry of each tensor of a safetensors file."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: Figures = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header


def _compare_logits(name: str, source: Path, targets: Targets, probe: torch.Tensor) -> Figures:
    """Return how far our logits are from those of the tool's own loader."""
    with tempfile.TemporaryDirectory() as room:
        pattern = Pattern.parse("dense")
        job = Job(source=source, pattern=pattern, targets=targets, workdir=Path(room))
        outcome = ModelFolder(path=name).apply(torch.nn.Identity(), job)
        with torch.no_grad():
            ours = loading.load(Path(str(outcome.model)), Compute())(probe).logits[0].numpy()
    theirs = np.load(f"{name}.logits.npy")
    figures: Figures = {
        "largest logit": round(float(abs(theirs).max()), 1),
        "difference of a logit, at most": round(float(abs(ours - theirs).max()), 4),
    }
    # Logits with the tool's own rounding of inputs: float16, or 8 bits.
    for kind in ("float16", "rounded"):
        if (other := Path(f"{name}.{kind}.logits.npy")).exists():
            apart = float(abs(ours - np.load(other)).max())
            figures["the same, as the tool itself multiplies"] = round(apart, 2)
    return figures


def main(step: str) -> None:
    like_a_worker()
    {"draw": draw, "compare": compare}[step]()


if __name__ == "__main__":
    start(main)
