"""Seconds and peak bytes of our one-shot methods, and how they grow with calibration and width.

On all of smollm2-135m-instruct-q4 with 32 sequences of 512 tokens of wiki-mini, on its first blocks
with 32 and with 128, then on two blocks of LLaMAs of random weights, three widths, 16 sequences of
512 random tokens; 2:4, float32, all cores. Every figure is from another process, which loads that
model alone, so a peak belongs to its method. The memory of the process before the method began is
recorded, too. Adapters of other libraries are left out: see prune.py. DSnoT and block
reconstruction refine magnitude's mask.

python benchmarks/one_shot.py [--methods wanda,alps] [--whole 32] [--sequences 32,128] [--blocks 3]
                              [--widths 128,256,512] [--rounds 1]

--whole and --sequences: numbers of sequences for all of the model and for its first --blocks.
Widths are multiples of 32. An empty list leaves these models out.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import harness
from harness import MODEL, Figures, apart, start

from bench.catalog.entries import METHODS
from bench.inputs import download
from bench.system import provenance
from bench.system.devices import cores
from methods.contract.info import Does
from methods.contract.pattern import Pattern

SEQLEN, PATTERN = 512, "2:4"
WIDE_BLOCKS, WIDE_SEQUENCES, WIDE_VOCABULARY, HEAD = 2, 16, 1024, 32
# The method `folder` imports the model of another tool: it prunes nothing.
ONE_SHOT = [
    name
    for name, entry in METHODS.items()
    if not {"training", "cuda", "isolated"} & set(entry.needs)
    and not entry.does & Does.LEAVES_DENSE
    and not entry.extra
    and name != "folder"
]


def prepare(folder: Path, blocks: int, sequences: list[int], widths: list[int]) -> None:
    """Write the models that are pruned: whole/, blocks/, width-N/, each with a file of tokens.

    sequences: numbers of them on any part of smollm2; blocks: number of its blocks in blocks/.
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
        tokens = harness.draw_tokens(found.folder, max(sequences), SEQLEN)
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


def one(name: str, folder: Path, sequences: int) -> dict[str, float]:
    """Prune a model with a method, and return seconds and bytes."""
    import torch
    from safetensors.torch import load_file

    from bench.inputs import loading
    from methods.contract.method import Compute, Job, Prior
    from methods.model.folder import Folder
    from methods.model.targets import find_targets

    torch.set_num_threads(cores())
    opened, pattern = Folder(folder), Pattern.parse(PATTERN)
    model = loading.load(folder, Compute())
    tokens = load_file(folder.with_name(folder.name + ".tokens"))["tokens"][:sequences].clone()
    targets = find_targets(opened.config, opened.shapes())
    more: Figures = {"targets": targets, "calibration": tokens, "compute": Compute(threads=cores())}
    if Does.REFINES in METHODS[name].does or METHODS[name].after:
        masks = harness.magnitude_masks(model, targets, pattern)
        more["prior"] = Prior(folder=folder, masks=masks)
        more["teacher"] = lambda: loading.load(folder, Compute())
    job, method = Job(source=folder, pattern=pattern, **more), harness.make_method("methods", name)
    before = provenance.peak_bytes("cpu")
    took = harness.seconds(lambda: method.apply(model, job))
    return {"seconds": took, "peak": provenance.peak_bytes("cpu"), "before": before}


def summarize(rounds: dict[str, list[dict[str, float]]]) -> Figures:
    """Return seconds, peak and earlier memory by size, and the ratio of the last to the first."""
    figures: Figures = {}
    times = harness.figure_of(rounds, "seconds")
    for size, runs in rounds.items():
        figures[size] = {
            "seconds": round(statistics.median(times[size]), 3),
            "peak MB": round(max(run["peak"] for run in runs) / 1e6, 1),
            "of these before it began": round(max(run["before"] for run in runs) / 1e6, 1),
        }
    if len(rounds) > 1:
        first, *_, last = rounds
        figures[f"{last} / {first}, seconds"] = harness.ratio(times, last, first)
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
    harness.like_a_worker()
    chosen = harness.split(methods, ONE_SHOT)
    entire = {f"whole model, {n} sequences": ("whole", n) for n in numbers(whole)}
    part = {f"{n} sequences": ("blocks", n) for n in numbers(sequences)}
    wide = {f"width {n}": (f"width-{n}", WIDE_SEQUENCES) for n in numbers(widths)}
    about = {
        "whole model": f"{MODEL}; sequences of {SEQLEN} tokens",
        "sequences": f"{MODEL}, blocks from its first: {blocks}; sequences of {SEQLEN} tokens",
        "widths": f"random LLaMAs of {WIDE_BLOCKS} blocks; {WIDE_SEQUENCES} x {SEQLEN} tokens",
    }
    groups = dict(zip(about, (entire, part, wide), strict=True))
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        room = Path(scratch)
        apart(prepare, room, blocks, numbers(whole) + numbers(sequences), numbers(widths))
        for _ in range(rounds):
            for name in chosen:
                for size, (model, count) in (entire | part | wide).items():
                    found = apart(one, name, room / model, count)
                    runs.setdefault((name, size), []).append(found)
    figures: Figures = {k: about[k] if sizes else "not run" for k, sizes in groups.items()}
    figures |= {"pattern": PATTERN, "threads": cores(), "rounds": rounds}
    for name in chosen:
        figures[name] = {}
        for sizes in groups.values():
            figures[name] |= summarize({size: runs[name, size] for size in sizes})
    harness.finish("one_shot", figures)


if __name__ == "__main__":
    start(main)
