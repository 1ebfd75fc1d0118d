"""How much of a format's error a model lacks because its weights come from a quantized file.

A model that was dequantized from a file of 4 bits has its weights on the grid of that file. A
format with a similar grid returns them almost unchanged, so its row is better than on a model
that was never quantized. Each format rounds the linears of one block of each pulled model, and
weights of the same shapes from a normal distribution. A figure is the ratio of the two squared
errors, each over the squares of the weights. About 1: the source does not matter. Inputs count as
equal.

python benchmarks/source_grid.py [--models smollm2-135m-instruct-q4,gemma-3-270m]
"""

from __future__ import annotations

from collections.abc import Sequence

import harness
import quantizers
import torch
from harness import MODEL, Figures, significant, start
from torch import Tensor

from methods.model.folder import Folder
from methods.model.targets import family_of

FORMATS = (
    *("int8", "q6_k", "q5_k", "q4_k", "iq4_nl", "iq4_xs", "q3_k", "iq3_s", "iq3_xxs", "q2_k"),
    *("iq2_xs", "nvfp4", "mxfp4", "nf4", "int4-rtn", "tcq4", "tcq3"),
)
ROWS = 512
"""Rows of each linear that are rounded."""


def weights_of(model: str) -> list[Tensor]:
    """Return the first rows of each linear of the middle block of a model, in float32."""
    found, opened, targets = harness.open_model(model)
    family, folder = family_of(opened.config), Folder(found.folder)
    middle = (family.block_of(targets[-1]) or 0) // 2
    own = [target for target in targets if family.block_of(target) == middle]
    return [folder.tensor(f"{target}.weight")[:ROWS].float() for target in own]


def error_of(name: str, weights: Sequence[Tensor]) -> float:
    """Return the squared error of a format over the squares of the weights."""
    quantizer = harness.make_method("quantizers", name)
    error = total = 0.0
    for weight in weights:
        code = quantizers.code_of(quantizer, weight)
        assert code is not None
        error += float((code.decode() - weight).square().sum())
        total += float(weight.square().sum())
    return error / total


def main(models: str = MODEL) -> None:
    harness.like_a_worker()
    torch.set_num_threads(1)
    figures: Figures = {name: {} for name in FORMATS}
    for model in models.split(","):
        weights = weights_of(model)
        draw = torch.Generator().manual_seed(0)
        normal = [torch.randn(weight.shape, generator=draw) for weight in weights]
        for name, found in figures.items():
            found[model] = significant(error_of(name, weights) / error_of(name, normal))
            harness.say(model, name, found[model])
    harness.finish("source_grid", figures)


if __name__ == "__main__":
    start(main)
