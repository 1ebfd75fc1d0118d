"""Trainings of seconds: a text with something to learn, and jobs that train on it."""

import copy
from dataclasses import replace

import numpy as np
import torch

from bench.catalog import choice
from bench.catalog.entries import METHODS
from bench.inputs.training_text import PackedCorpus
from methods.contract.method import Budget, Prior

STEPS = 30


def counting():
    """Return a text with something to learn: mostly, the next token is the last one plus one."""
    rng = np.random.default_rng(0)
    ids = np.cumsum(rng.choice([1, 1, 1, 5], size=4000)) % 64
    return PackedCorpus(ids.astype(np.uint16), seqlen=16, sequences=8, seed=0)


def job_to_train(
    model, make_job, corpus, workdir, pattern="2:4", steps=STEPS, budget=None, **fields
):
    """Return a job that trains for `steps` steps. Its prior has the masks of the largest weights.
    budget: fields of Budget.
    """
    job = make_job(model, pattern)
    targets = () if job.pattern.dense else job.targets
    masks = {t: job.pattern.keep(weight_of(model, t).abs()) for t in targets}
    teacher = copy.deepcopy(model)
    given = {
        "training": corpus,
        "validation": torch.from_numpy(corpus.ids[:320].astype(np.int64)).view(20, 16),
        "budget": Budget(tokens=steps * corpus.step_tokens, **({"micro": 4} | (budget or {}))),
        "teacher": lambda: teacher,
        "workdir": workdir,
        "prior": Prior(folder=workdir, masks=masks),
    }
    return replace(job, **(given | fields))


def weight_of(model, target):
    return model.get_submodule(target).weight


def method(name, **config):
    """name: of a method, or method:preset."""
    name, _, preset = name.partition(":")
    entry = METHODS[name]
    rate = {} if "relative_lr" in config else {"lr": 3e-3}
    return choice.build(entry, name, rate | (entry.presets[preset] if preset else {}) | config)


def pruned(model, job):
    """Return the model after one-shot pruning."""
    model = copy.deepcopy(model)
    for t in job.targets:
        weight = weight_of(model, t)
        weight.masked_fill_(~job.pattern.keep(weight.abs()), 0)
    return model


LAST_DIGIT = 1e-5
"""One unit of it, of a figure noted with six: at most so much of the figure."""


SHAPES = [(8, 16), (4, 12), (3, 8)]
"""Shapes of small weights."""


def parameters(shapes=SHAPES):
    """Return random weights, float32."""
    rng = torch.Generator().manual_seed(4)
    return [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]


def train(params, optimizer, steps, seed=1, scale=1.0):
    """Take steps of an optimizer with random gradients."""
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = scale * torch.randn(p.shape, generator=rng).to(p)
        optimizer.step()
    return params
