"""SparseGPT and Wanda, ours against llm-compressor's `oneshot` and against the floor, on
smollm2-135m-instruct-q4.

The same 32 x 512 calibration tokens of wiki-mini for both, 2:4, float32, all cores. The floor is
the arithmetic that every
method needs: two passes over the blocks, without the products whose output is not used (the last
linear of the first pass; the last block's second pass), and for SparseGPT one X^T X for each
distinct input.

pip install -e '.[llmcompressor]' && python benchmarks/prune.py [--rounds 3] [--methods wanda]
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from harness import draw_tokens, finish, in_turn, ratio, split, start
from torch import Tensor, nn

from baselines.sparsegpt import prune_
from baselines.wanda import squared_norm
from bench.catalog.choice import build
from bench.catalog.registry import lookup
from bench.inputs import download, loading
from bench.system.devices import cores
from methods.contract.method import Compute, Job
from methods.contract.pattern import Pattern
from methods.model.targets import find_targets
from methods.workshop.pruning.hessian import add_gram, inverse_factor, symmetric
from methods.workshop.pruning.walk import Walk

SEQUENCES, SEQLEN, BATCH = 32, 512, 1
MATCH_BLOCKS = 15
METHODS = ("wanda", "sparsegpt")


def ours(method: str, model: nn.Module, tokens: Tensor, targets: tuple[str, ...]) -> None:
    folder = download.pull("smollm2-135m-instruct-q4").folder
    build(lookup("methods", method), method, {}).apply(
        model, Job(source=folder, pattern=Pattern(2, 4), targets=targets, calibration=tokens)
    )


def theirs(method: str, model: nn.Module, tokens: Tensor) -> None:
    """Targets named by pattern: with "Linear" the library prunes the tied lm_head too."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import WandaPruningModifier
    from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier

    modifier = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method]
    rows = Dataset.from_dict({"input_ids": tokens.tolist()})
    oneshot(
        model=model,
        dataset=rows,
        recipe=modifier(
            sparsity=0.5,
            mask_structure="2:4",
            targets=[r"re:model\.layers\.\d+\.(self_attn|mlp)\..*_proj$"],
        ),
        max_seq_length=SEQLEN,
        num_calibration_samples=SEQUENCES,
        shuffle_calibration_samples=False,
    )


class _Enough(Exception):
    pass


@torch.no_grad()
def floor(model: nn.Module, tokens: Tensor, hessians: bool) -> None:
    """Two passes and the Gram matrices; nothing is pruned."""
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

        inputs = {
            "q": layer.self_attn.q_proj,
            "o": layer.self_attn.o_proj,
            "gate": layer.mlp.gate_proj,
            "down": layer.mlp.down_proj,
        }
        hooks = [module.register_forward_pre_hook(gram(name)) for name, module in inputs.items()]
        for h, rest in zip(hidden, kept, strict=True):
            with contextlib.suppress(_Enough):
                layer(h, **rest)
        for hook in hooks:
            hook.remove()
        if i + 1 < len(layers):
            hidden = [layer(h, **rest) for h, rest in zip(hidden, kept, strict=True)]


def agreement(theirs: nn.Module, ours: nn.Module) -> list[float]:
    """Share of weights on which two models' masks agree, per block."""
    shares = []
    for x, y in zip(theirs.model.layers, ours.model.layers, strict=True):
        pairs = [
            (p != 0, q != 0)
            for p, q in zip(x.parameters(), y.parameters(), strict=True)
            if p.dim() == 2
        ]
        shares.append(sum(int((p == q).sum()) for p, q in pairs) / sum(p.numel() for p, _ in pairs))
    return shares


def on_the_same_inputs(
    method: str, dense: nn.Module, theirs: nn.Module, tokens: Tensor, targets: tuple[str, ...]
) -> nn.Module:
    """Our masks where each block sees what llm-compressor's own pruned blocks hand on.

    Left to itself, one near-tie that rounding settles the other way is enough: the model multiplies
    it block by block.
    """
    model, masked = copy.deepcopy(dense), copy.deepcopy(dense)
    job = Job(
        source=download.pull("smollm2-135m-instruct-q4").folder,
        pattern=Pattern(2, 4),
        targets=targets,
        calibration=tokens,
    )
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
    found = download.pull("smollm2-135m-instruct-q4")
    tokens = draw_tokens(found.folder, SEQUENCES, SEQLEN)
    dense = loading.load(found.folder, Compute())
    opened = found.open()
    targets = find_targets(opened.config, opened.shapes())
    last: dict[str, nn.Module] = {}

    def fresh(name: str) -> nn.Module:
        last[name] = copy.deepcopy(dense)
        return last[name]

    figures: dict[str, Any] = {
        "model": "smollm2-135m-instruct-q4",
        "tokens": f"{SEQUENCES} x {SEQLEN}",
        "threads": cores(),
    }
    for method in split(methods, METHODS):
        times = in_turn(
            {
                "floor": lambda m=method: floor(dense, tokens, hessians=m == "sparsegpt"),
                "ours": lambda m=method: ours(m, fresh("ours"), tokens, targets),
                "llm-compressor": lambda m=method: theirs(m, fresh("theirs"), tokens),
            },
            rounds,
        )
        shares = agreement(last["theirs"], last["ours"])
        same = agreement(
            last["theirs"], on_the_same_inputs(method, dense, last["theirs"], tokens, targets)
        )
        head = dense.get_output_embeddings().weight
        assert torch.equal(last["theirs"].get_output_embeddings().weight, head), (
            "llm-compressor touched lm_head"
        )
        figures[method] = {
            "llm-compressor / ours": ratio(times, "llm-compressor", "ours"),
            "ours / floor": ratio(times, "ours", "floor"),
            "seconds": {k: [round(s, 2) for s in v] for k, v in times.items()},
            f"least mask agreement of {MATCH_BLOCKS} blocks, on the same inputs": round(
                min(same[:MATCH_BLOCKS]), 6
            ),
            f"least mask agreement of {MATCH_BLOCKS} blocks, each on its own": round(
                min(shares[:MATCH_BLOCKS]), 6
            ),
            "on the same inputs, by block": [round(s, 6) for s in same],
            "each on its own, by block": [round(s, 6) for s in shares],
        }
    finish("prune", figures)


if __name__ == "__main__":
    start(main)
