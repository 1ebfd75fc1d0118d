"""Weights that two ranks round before they gather them: the same training, fewer bytes."""

import pytest
import torch

from helpers import forked_ranks, several_ranks
from helpers.models import sample
from methods.model.folder import Folder

CASES = [("cast", "llama"), ("retrain", "llama"), ("cast", "gpt_oss"), ("cast:no-scaling", "gpt2")]
WITHOUT_SCALES = ("retrain", "cast:no-scaling")


@pytest.mark.parametrize(("name", "family"), sample(CASES, CASES[1]))
def test_rounded_before_or_after_it_is_the_same_training(name, family, tmp_path):
    """Without scales the same to the last bit.

    The gradient of a scale is the product of two sums or a sum of products, and Adam divides the
    last digit of small ones by itself.
    """
    forked_ranks.launch(several_ranks, 2, tmp_path, f"round={name},{family}")

    folders = [tmp_path / f"{name},{family}" / kind for kind in ("rounded", "whole")]
    models = [Folder(folder / "model") for folder in folders]
    curves = [(folder / "curve.txt").read_text() for folder in folders]
    if name in WITHOUT_SCALES:
        assert curves[0] == curves[1]
        assert all(torch.equal(models[0].tensor(key), models[1].tensor(key)) for key in models[1])
    else:
        losses = [[float(line) for line in curve.split()] for curve in curves]
        assert losses[0][0] == losses[1][0]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        for key in models[1]:
            one, other = (model.tensor(key).float() for model in models)
            assert (one - other).norm() < 0.02 * other.norm(), key
    sizes = [int((folder / "bytes.txt").read_text()) for folder in folders]
    assert sizes[0] < 0.8 * sizes[1]
