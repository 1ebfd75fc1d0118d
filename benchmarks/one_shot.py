"""Seconds and peak bytes of every one-shot method of ours, and how they grow with calibration and
with width.

On all of smollm2-135m-instruct-q4 with 32 sequences of 512 tokens of wiki-mini, on its first blocks
with 32 and with 128, then on two blocks of LLaMAs of random weights, three widths, 16 sequences of
512 random tokens; 2:4, float32, all cores. Every figure is from another process, which loads that
model alone, so a peak belongs to its method. The memory of the process before the method began is
recorded, too. Adapters of other libraries are left out: see prune.py. DSnoT and block
reconstruction refine magnitude's mask.

python benchmarks/one_shot.py [--methods wanda,alps] [--whole 32] [--sequences 32,128] [--blocks 3]
[--widths 128,256,512]
                              [--rounds 1]

--whole and --sequences: numbers of sequences for all of the model and for its first --blocks.
Widths are multiples of 32. An empty list leaves these models out.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from harness import apart, draw_tokens, finish, like_a_worker, ratio, seconds, split, start

from bench.catalog import registry
from bench.catalog.choice import build
from bench.catalog.entries import METHODS
from bench.inputs import download
from bench.system import provenance
from bench.system.devices import cores
from methods.contract.info import Does
from methods.contract.pattern import Pattern

MODEL, SEQLEN, PATTERN = "smollm2-135m-instruct-q4", 512, "2:4"
WIDE_BLOCKS, WIDE_SEQUENCES, WIDE_VOCABULARY, HEAD = 2, 16, 1024, 32
ONE_SHOT = [
    name
    for name, entry in METHODS.items()
    if not (
        entry.does & Does.LEAVES_DENSE
        or entry.extra
        or {"training", "cuda", "isolated"} & set(entry.needs)
    )
    and name != "folder"  # the model of another tool: it prunes nothing
]


def prepare(folder: Path, blocks: int, sequences: list[int], widths: list[int]) -> None:
    """Write the models that are pruned, each with a file of tokens beside it.

    whole/, blocks/, width-N/. sequences: numbers of them on any part of smollm2; blocks: of it, for
    blocks/.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, LlamaConfig

    from bench.inputs import loading
    from methods.contract.method import Compute
    from methods.model.folder import save

    def keep(model: Any, tokens: torch.Tensor, name: str) -> None:
        (folder / name).mkdir()
        model.config.save_pretrained(folder / name)
        save(model, folder / name)
        save_file({"tokens": tokens}, folder / f"{name}.tokens")

    if sequences:
        found = download.pull(MODEL)
        tokens = draw_tokens(found.folder, max(sequences), SEQLEN)
        model: Any = loading.load(found.folder, Compute())
        keep(model, tokens, "whole")
        del model.model.layers[blocks:]
        model.config.num_hidden_layers = blocks
        keep(model, tokens, "blocks")
    torch.manual_seed(0)
    for width in widths:
        about = LlamaConfig(
            vocab_size=WIDE_VOCABULARY,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=WIDE_BLOCKS,
            num_attention_heads=width // HEAD,
            max_position_embeddings=SEQLEN,
        )
        tokens = torch.randint(WIDE_VOCABULARY, (WIDE_SEQUENCES, SEQLEN))
        keep(AutoModelForCausalLM.from_config(about, dtype=torch.float32), tokens, f"width-{width}")


def one(name: str, folder: Path, sequences: int) -> dict[str, Any]:
    """Prune a model with a method, and return seconds and bytes."""
    import torch
    from safetensors.torch import load_file

    from bench.inputs import loading
    from methods.contract.method import Compute, Job, Prior
    from methods.model.folder import Folder
    from methods.model.targets import dense_weight, find_targets

    torch.set_num_threads(cores())
    opened = Folder(folder)
    model = loading.load(folder, Compute())
    tokens = load_file(folder.with_name(folder.name + ".tokens"))["tokens"][:sequences].clone()
    targets = find_targets(opened.config, opened.shapes())
    job: dict[str, Any] = {
        "source": folder,
        "pattern": Pattern.parse(PATTERN),
        "targets": targets,
        "calibration": tokens,
        "compute": Compute(threads=cores()),
    }
    entry = registry.lookup("methods", name)
    if Does.REFINES in entry.does or entry.after:
        masks = {
            t: job["pattern"].keep(dense_weight(model.get_submodule(t)).abs()) for t in targets
        }
        job["prior"] = Prior(folder=folder, masks=masks)
        job["teacher"] = lambda: loading.load(folder, Compute())
    method = build(entry, name, {})
    before = provenance.peak_bytes("cpu")
    took = seconds(lambda: method.apply(model, Job(**job)))
    return {"seconds": took, "peak": provenance.peak_bytes("cpu"), "before": before}


def summarize(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return, for each size, median seconds, the highest peak, and what was held before. Then
    ratios of the last to the first."""
    figures: dict[str, Any] = {
        size: {
            "seconds": round(statistics.median(r["seconds"] for r in runs), 3),
            "peak MB": round(max(r["peak"] for r in runs) / 1e6, 1),
            "of these before it began": round(max(r["before"] for r in runs) / 1e6, 1),
        }
        for size, runs in rounds.items()
    }
    if len(rounds) > 1:
        first, *_, last = rounds
        times = {size: [r["seconds"] for r in runs] for size, runs in rounds.items()}
        figures[f"{last} / {first}, seconds"] = ratio(times, last, first)
    return figures


def numbers(text: str) -> list[int]:
    return sorted({int(n) for n in text.split(",") if n})


def main(
    methods: str = ",".join(ONE_SHOT),
    whole: str = "32",
    sequences: str = "32,128",
    blocks: int = 3,
    widths: str = "128,256,512",
    rounds: int = 1,
) -> None:
    like_a_worker()
    chosen = split(methods, ONE_SHOT)
    entire = {f"whole model, {n} sequences": ("whole", n) for n in numbers(whole)}
    part = {f"{n} sequences": ("blocks", n) for n in numbers(sequences)}
    wide = {f"width {n}": (f"width-{n}", WIDE_SEQUENCES) for n in numbers(widths)}
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        apart(prepare, Path(scratch), blocks, numbers(whole) + numbers(sequences), numbers(widths))
        for _ in range(rounds):
            for name in chosen:
                for size, (model, count) in (entire | part | wide).items():
                    runs.setdefault((name, size), []).append(
                        apart(one, name, Path(scratch) / model, count)
                    )
    figures: dict[str, Any] = {
        "whole model": f"{MODEL}; sequences of {SEQLEN} tokens" if entire else "not run",
        "sequences": f"{MODEL}, blocks from its first: {blocks}; sequences of {SEQLEN} tokens"
        if part
        else "not run",
        "widths": f"random LLaMAs of {WIDE_BLOCKS} blocks; {WIDE_SEQUENCES} x {SEQLEN} tokens"
        if wide
        else "not run",
        "pattern": PATTERN,
        "threads": cores(),
        "rounds": rounds,
    }
    for name in chosen:
        figures[name] = {}
        for sizes in (entire, part, wide):
            figures[name] |= summarize({size: runs[name, size] for size in sizes})
    finish("one_shot", figures)


if __name__ == "__main__":
    start(main)
