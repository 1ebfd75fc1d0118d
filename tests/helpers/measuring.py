"""Inputs of a measure: tiny as the dense model, and a model near it."""

from dataclasses import replace
from pathlib import Path

import torch

from bench.inputs import loading
from bench.measures.contract import MeasureContext
from bench.verify import WeightCounts
from helpers import runs
from methods.contract.method import Compute, NoProgress
from methods.contract.pattern import Pattern


def near_tiny(noise):
    """tiny, its weights a little wrong."""
    model = loading.load(runs.TINY, Compute())
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(noise * parameter.std() * torch.randn_like(parameter))
    return model


def context_of(folder, **changes):
    """The context of a measure on the model in a folder. changes: fields that differ."""
    context = MeasureContext(
        folder=folder,
        source=runs.TINY,
        is_dense=False,
        tokenizer=lambda: loading.load_tokenizer(runs.TINY),
        load_dense=lambda: loading.load(runs.TINY, Compute()),
        counts=WeightCounts(Pattern()),
        compute=Compute(),
        data_dir=None,
        workdir=Path(),
        progress=NoProgress(),
        seed=None,
    )
    return replace(context, **changes)
