"""SparseGPT and Wanda, ours against llm-compressor's `oneshot` and against the floor.

smollm2-135m-instruct-q4, the same 32 x 512 calibration tokens of wiki-mini for both, 2:4, float32,
all cores. The floor is the arithmetic that every method needs: two passes over the blocks, without
the products whose output is not used (the last linear of the first pass, and the last block's
second pass), and for SparseGPT one X^T X for each distinct input.

pip install -e '.[llmcompressor]' && python benchmarks/prune.py [--rounds 3] [--methods wanda]
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import torch
from harness import MODEL, Figures, start
from torch import Tensor, nn

from baselines.sparsegpt import prune_
from baselines.wanda import squared_norm
from bench.inputs import download, loading
from bench.system.devices import cores
from methods.contract.method import Compute, Job
from methods.contract.pattern import Pattern
from methods.workshop.pruning.hessian import add_gram, inverse_factor, symmetric
from methods.workshop.pruning.walk import Walk

SEQUENCES, SEQLEN, BATCH = 32, 512, 1
MATCH_BLOCKS = 15
METHODS = ("wanda", "sparsegpt")


def job_of(tokens: Tensor, targets: tuple[str, ...]) -> Job:
    folder = download.pull(MODEL).folder
    return Job(source=folder, pattern=Pattern(2, 4), targets=targets, calibration=tokens)


def ours(method: str, model: nn.Module, tokens: Tensor, targets: tuple[str, ...]) -> None:
    """Prune a model by our method."""
    harness.make_method("methods", method).apply(model, job_of(tokens, targets))


def theirs(method: str, model: nn.Module, tokens: Tensor) -> None:
    """Prune a model by llm-compressor.

    Targets are named by pattern: with "Linear" the library prunes the tied lm_head too.
    """
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import WandaPruningModifier
    from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier

    modifier = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method]
    targets = [r"re:model\.layers\.\d+\.(self_attn|mlp)\..*_proj$"]
    oneshot(
        model=model,
        dataset=Dataset.from_dict({"input_ids": tokens.tolist()}),
        recipe=modifier(sparsity=0.5, mask_structure="2:4", targets=targets),
        max_seq_length=SEQLEN,
        num_calibration_samples=SEQUENCES,
        shuffle_calibration_samples=False,
    )


class _Enough(Exception):
    pass


@torch.no_grad()
def floor(model: Any, tokens: Tensor, hessians: bool) -> None:
    """Run two passes and the Gram matrices. Nothing is pruned."""
    layers = model.model.layers
    kept: list[dict[str, Any]] = []

    def grab(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append({"hidden": args[0], **kwargs})
        raise _Enough

    handle = layers[0].register_forward_pre_hook(grab, with_kwargs=True)
    for part in tokens.split(BATCH):
        with contextlib.suppress(_Enough):
            model(part, use_cache=False)
    handle.remove()
    hidden = [k.pop("hidden") for k in kept]
    for i, layer in enumerate(layers):
        sums: dict[str, Tensor] = {}

        def gram(name: str, sums: dict[str, Tensor] = sums) -> Callable[..., None]:
            def listen(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                if hessians:
                    x = args[0].flatten(0, -2)
                    sums[name] = sums[name].addmm_(x.T, x) if name in sums else x.T @ x
                if name == "down":
                    raise _Enough

            return listen

        inputs = {"q": layer.self_attn.q_proj, "o": layer.self_attn.o_proj}
        inputs |= {"gate": layer.mlp.gate_proj, "down": layer.mlp.down_proj}
        hooks = [module.register_forward_pre_hook(gram(name)) for name, module in inputs.items()]
        for h, rest in zip(hidden, kept, strict=True):
            with contextlib.suppress(_Enough):
                layer(h, **rest)
        for hook in hooks:
            hook.remove()
        if i + 1 < len(layers):
            hidden = [layer(h, **rest) for h, rest in zip(hidden, kept, strict=True)]


def agreement(theirs: Any, ours: Any) -> list[float]:
    """Return the share of weights on which two models' masks agree, per block."""
    shares = []
    for x, y in zip(theirs.model.layers, ours.model.layers, strict=True):
        same = weights = 0
        for p, q in zip(x.parameters(), y.parameters(), strict=True):
            if p.dim() == 2:
                same += int(((p != 0) == (q != 0)).sum())
                weights += p.numel()
        shares.append(same / weights)
    return shares


def on_the_same_inputs(
    method: str, dense: Any, theirs: Any, tokens: Tensor, targets: tuple[str, ...]
) -> Any:
    """Return our masks where each block sees the output of llm-compressor's own pruned blocks.

    Otherwise the model multiplies one near-tie, which rounding settles the other way, block by
    block.
    """
    model: Any = copy.deepcopy(dense)
    masked: Any = copy.deepcopy(dense)
    job = job_of(tokens, targets)
    walk = Walk(model, job, {"wanda": squared_norm, "sparsegpt": add_gram}[method])
    for visit in walk:
        mine = masked.get_submodule(visit.name).weight
        if method == "wanda":
            mine.mul_(job.pattern.keep(visit.weight.abs() * visit.stat.sqrt()))
        else:
            factor, _ = inverse_factor(symmetric(visit.stat).mul_(2 / tokens.numel()), 0.01)
            prune_(mine, factor, job.pattern, 128)
        visit.weight.copy_(theirs.get_submodule(visit.name).weight)
    return masked


def main(rounds: int = 3, methods: str = ",".join(METHODS)) -> None:
    torch.set_num_threads(cores())
    found, _, targets = harness.open_model()
    tokens = harness.draw_tokens(found.folder, SEQUENCES, SEQLEN)
    dense: Any = loading.load(found.folder, Compute())
    last: dict[str, Any] = {}

    def prune_ours(method: str) -> None:
        last["ours"] = copy.deepcopy(dense)
        ours(method, last["ours"], tokens, targets)

    def prune_theirs(method: str) -> None:
        last["theirs"] = copy.deepcopy(dense)
        theirs(method, last["theirs"], tokens)

    tokens_of = f"{SEQUENCES} x {SEQLEN}"
    figures: Figures = {"model": MODEL, "tokens": tokens_of, "threads": cores()}
    for method in harness.split(methods, METHODS):
        contestants: dict[str, Callable[[], Any]] = {
            "floor": partial(floor, dense, tokens, method == "sparsegpt"),
            "ours": partial(prune_ours, method),
            "llm-compressor": partial(prune_theirs, method),
        }
        times = harness.in_turn(contestants, rounds)
        head, other = dense.get_output_embeddings().weight, last["theirs"]
        assert torch.equal(other.get_output_embeddings().weight, head), "lm_head was pruned"
        mine = on_the_same_inputs(method, dense, other, tokens, targets)
        shares = {
            "on the same inputs": [round(s, 6) for s in agreement(other, mine)],
            "each on its own": [round(s, 6) for s in agreement(other, last["ours"])],
        }
        figures[method] = {
            "llm-compressor / ours": harness.ratio(times, "llm-compressor", "ours"),
            "ours / floor": harness.ratio(times, "ours", "floor"),
            "seconds": {k: [round(s, 2) for s in v] for k, v in times.items()},
        }
        for how, by_block in shares.items():
            label = f"least mask agreement of {MATCH_BLOCKS} blocks, {how}"
            figures[method][label] = min(by_block[:MATCH_BLOCKS])
        figures[method] |= {f"{how}, by block": by_block for how, by_block in shares.items()}
    harness.finish("prune", figures)


if __name__ == "__main__":
    start(main)
