"""Models of five tools, read by `folder:path=`: logits against each tool's own loader, and bits
against the files.

python benchmarks/folders.py draw            tokens for the scripts in benchmarks/other_tools:
calibration and a prompt python benchmarks/folders.py compare         IDS and what the scripts wrote
are in this folder, by the names of TOOLS

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
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import GGUFReader
from harness import call, draw_tokens, finish, like_a_worker, start

from bench.formats.method import ModelFolder
from bench.inputs import download, loading
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from methods.contract.method import Compute, Job
from methods.contract.pattern import Pattern
from methods.model.folder import Folder
from methods.model.targets import find_targets

MODEL = "smollm2-135m-instruct-q4"
TOOLS = {
    "llm-compressor, 2:4": "smollm2-2of4-llm-compressor",
    "ten lines, 2:4": "smollm2-2of4-ten-lines",
    "llm-compressor, W4A16": "smollm2-W4A16-llm-compressor",
    "auto-round, GPTQ": "smollm2-gptq-auto-round",
    "llama.cpp, Q4_K_M": "smollm2-Q4_K_M.gguf",
}
STORED_DENSE = "smollm2-2of4-ten-lines"
"""Model with zeros in its file. Its bits are compared with those of its packed24 export."""
IDS, ROWS = Path("ids.npz"), Path(__file__).parents[1] / "results" / "smollm2-folders"
PROMPT = Path(__file__).parents[1] / "LICENSE"
MAX_DIFFERENCE = 0.01
"""Largest relative difference between counted bits and those in a file."""


class FileParts(NamedTuple):
    """Bytes of a file, counted from its own header and without this suite's readers."""

    targets: int
    """Bytes of the tensors of linears in decoder blocks."""
    others: int
    """Bytes of all other tensors."""
    whole: int


def draw() -> None:
    """Write calibration [16, 256] from wiki-mini, and the first 64 tokens of a text that no tool
    was calibrated on."""
    folder = download.pull(MODEL).folder
    prompt = loading.load_tokenizer(folder)(PROMPT.read_text())["input_ids"][:64]
    np.savez(
        IDS, calibration=draw_tokens(folder, 32, 512)[:16, :256].numpy(), probe=np.array(prompt)
    )


def compare() -> None:
    torch.set_num_threads(1)
    original = Folder(download.pull(MODEL).folder)
    targets = find_targets(original.config, original.shapes())
    weights = sum(math.prod(original.shapes()[f"{target}.weight"]) for target in targets)
    probe = torch.tensor(np.load(IDS)["probe"][None])
    figures = {}
    for tool, name in TOOLS.items():
        figures[tool] = _compare_bits(name, targets, weights) | _compare_logits(
            Path(name), original, targets, probe
        )
    finish("folders", figures)


def _compare_bits(name: str, targets: list[str], weights: int) -> dict[str, Any]:
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
    records = newest(ReadOnlyStore(ROWS).verified())
    found = (r for record in records if record.identity.stages == (stage,) for r in record.readings)
    (bits,) = (reading.value for reading in found if reading.metric == "bits_per_weight")
    return float(bits or 0)


def _parts(path: Path, targets: list[str]) -> FileParts:
    """Read the sizes of tensors from the headers of a GGUF file or of a folder's safetensors
    files."""
    if path.is_file():
        # Every matrix of a LLaMA's block is a linear.
        tensors = [
            (t.name.startswith("blk.") and len(t.shape) == 2, int(t.n_bytes))
            for t in GGUFReader(path).tensors
        ]
        files = [path]
    else:
        files, tensors = sorted(path.glob("*.safetensors")), []
        for file in files:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                linear = any(
                    part in targets
                    for part in (name.rpartition(".")[0], name.rpartition(".weight.")[0])
                )
                tensors.append((linear, end - start))
    whole = sum(file.stat().st_size for file in files)
    return FileParts(
        *(sum(size for linear, size in tensors if linear is kind) for kind in (True, False)), whole
    )


def _compare_logits(
    path: Path, original: Folder, targets: list[str], probe: torch.Tensor
) -> dict[str, Any]:
    """Return how far our logits are from those of the tool's own loader."""
    with tempfile.TemporaryDirectory() as workdir:
        job = Job(
            source=original.path,
            pattern=Pattern.parse("dense"),
            targets=targets,
            workdir=Path(workdir),
        )
        outcome = ModelFolder(path=str(path)).apply(torch.nn.Identity(), job)
        with torch.no_grad():
            ours = loading.load(Path(str(outcome.model)), Compute())(probe).logits[0].numpy()
    theirs = np.load(f"{path}.logits.npy")
    about = {
        "largest logit": round(float(abs(theirs).max()), 1),
        "difference of a logit, at most": round(float(abs(ours - theirs).max()), 4),
    }
    # Logits with the tool's own rounding of inputs: float16, or 8 bits.
    for kind in ("float16", "rounded"):
        if (other := Path(f"{path}.{kind}.logits.npy")).exists():
            about["the same, as the tool itself multiplies"] = round(
                float(abs(ours - np.load(other)).max()), 2
            )
    return about


def main(step: str) -> None:
    like_a_worker()
    {"draw": draw, "compare": compare}[step]()


if __name__ == "__main__":
    start(main)
