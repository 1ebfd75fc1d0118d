"""A model folder dense and as packed24: bytes, seconds to the first token, and peak memory.

python benchmarks/packed24.py [--layers N]

One layer or more of LLaMA2-7B's shapes, random and 2:4, in bfloat16. Each load is another process,
in turn. Seconds and peak count from the end of the imports, and the file cache is warm for both.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from harness import Figures, apart, figure_of, finish, ratio, start

from bench.formats.writing import export_model
from bench.inputs import loading
from bench.parts.packed24 import linear24
from bench.parts.packed24.packing import pack, unpack
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model.folder import Writer

SHAPES = {"q_proj": (4096, 4096), "up_proj": (11008, 4096), "down_proj": (4096, 11008)}
ROUNDS = 3


def sparse(out: int, width: int) -> torch.Tensor:
    weight = torch.randn(out, width, dtype=torch.bfloat16)
    return torch.where(Pattern(2, 4).keep(weight.abs()), weight, 0)


def write(folder: Path, layers: int) -> None:
    """Write a random model whose blocks are 2:4."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
        "intermediate_size": 11008, "num_hidden_layers": layers, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 1024, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    writer = Writer(folder)
    (folder / "config.json").write_text(json.dumps(config))
    for name, empty in loading.empty_model(folder, torch.bfloat16).named_parameters():
        block = empty.ndim == 2 and ".layers." in name
        dense = torch.randn(empty.shape, dtype=torch.bfloat16)
        writer.add(name, sparse(*empty.shape) if block else dense)
    writer.close()


def load(kind: str, folder: Path) -> dict[str, float]:
    """Load a folder in the format `kind`, and return seconds and kilobytes."""
    compute = Compute(dtype=torch.bfloat16)
    resident = _kilobytes("VmRSS")
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    model = loading.load(folder, compute) if kind == "hf" else linear24.load(folder, compute)
    loaded = time.perf_counter()
    with torch.inference_mode():
        model(torch.tensor([[1]]))
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = {"load": loaded - started, "first token": time.perf_counter() - loaded}
    seconds["processor"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds | {"peak": _kilobytes("VmHWM") - resident}


def _kilobytes(key: str) -> int:
    """Return kilobytes of this process, by Linux. getrusage includes the parent before the fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main(layers: int = 1) -> None:
    figures: Figures = {"layers": layers}
    for name, shape in SHAPES.items():
        weight = sparse(*shape)
        clock = [time.process_time()]
        packed = pack(weight)
        clock.append(time.process_time())
        assert torch.equal(unpack(packed), weight)
        clock.append(time.process_time())
        figures[f"{name}, packed / bfloat16 bytes"] = round(packed.nbytes / weight.nbytes, 4)
        for i, done in enumerate(("packed", "unpacked")):
            rate = weight.nbytes / (clock[i + 1] - clock[i]) / 1e9
            figures[f"{name}, dense GB {done} a processor second"] = round(rate, 2)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {kind: Path(scratch) / kind for kind in ("hf", "packed24")}
        write(folders["hf"], layers)
        export_model(str(folders["hf"]), "packed24", folders["packed24"])
        size = {}
        for kind, folder in folders.items():
            size[kind] = sum(file.stat().st_size for file in folder.iterdir())
        figures["folder, packed24 / hf bytes"] = round(size["packed24"] / size["hf"], 4)
        seen: dict[str, list[dict[str, float]]] = {kind: [] for kind in folders}
        for _ in range(ROUNDS):
            for kind, folder in folders.items():
                seen[kind].append(apart(load, kind, folder))
    for what in seen["hf"][0]:
        figures[f"{what}, packed24 / hf"] = ratio(figure_of(seen, what), "packed24", "hf")
    finish("packed24", figures)


if __name__ == "__main__":
    start(main)
