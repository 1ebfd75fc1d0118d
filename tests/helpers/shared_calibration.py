"""Run by test_sharing: calibrate cases on several processes, and write the results."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from bench.catalog import choice
from bench.catalog.entries import METHODS, QUANTIZERS
from bench.inputs import loading
from helpers.forked_ranks import run_ranks
from helpers.models import exact, job_for, mean_float64, store, with_prior, write
from helpers.runs import TINY
from helpers.trainings import pruned
from methods.contract.method import Compute, Job

EXACT = {
    "wanda": ("llama", "wanda", {}, {}),
    "wanda unstructured": ("llama", "wanda", {}, {"pattern": "50%"}),
    "ria": ("gpt2", "ria", {}, {}),
    "sparsegpt": ("gpt2", "sparsegpt", {}, {}),
    "sparsegpt on five sequences": ("llama", "sparsegpt", {}, {"sequences": 5}),
    "alps": ("llama", "alps", {"steps": 0}, {}),
    "admm": ("llama", "admm", {}, {}),
    "dsnot": ("llama", "dsnot", {"part": "all"}, {}),
    "int4-gptq": ("llama", "int4-gptq", {}, {}),
    "experts": ("qwen3_moe", "sparsegpt", {}, {}),
    "experts mask only": ("mixtral", "sparsegpt", {"mask_only": True}, {}),
    "experts int4-gptq": ("gpt_oss", "int4-gptq", {}, {}),
    "experts that see all": ("qwen3_moe", "admm", {}, {"all_experts": True}),
}
"""Cases in float64, where rounding decides no tie: family, method, settings, changes of the job.
ALPS runs
without its conjugate gradients: for these few inputs the least squares are so ill-conditioned that
they multiply 1e-16 by 1e13."""
TINY_METHODS = ("wanda", "ria", "sparsegpt", "int4-gptq")
"""Cases in float32, on the model `tiny` and real text. ADMM and ALPS iterate, so one tie changes
later iterations: on some processors 0.01% of the weights of ADMM and 0.1% of a block's of ALPS
differ."""
STREAMED = "sparsegpt streamed"
LAST_BLOCK = {"exact": ("alps",), "tiny": ("int4-gptq",)}
"""They prune the last block alone. ALPS multiplies what rounding changes in a block's inputs by
about 1e5, and a value between two
points of a grid jumps by a whole step: after a few blocks one process that takes its sequences in
another order parts from itself."""


def exact_case(case: str, folder: Path):
    """Return (model, job, method), under `mean_float64`. folder: for the source model."""
    family, name, config, changes = EXACT[case]
    model = exact(family)
    job = with_prior(model, job_for(model, changes.get("pattern", "2:4")))
    if name in QUANTIZERS:
        model = pruned(model, job)
    fields = {"targets": targets_of("exact", name, job), "source": write(model, folder)}
    fields["calibration"] = job.calibration[: changes.get("sequences", 6)]
    job = replace(job, all_experts=changes.get("all_experts", False), **fields)
    return model, job, method(name, config)


def tiny_case(case: str, tokens: torch.Tensor, workdir: Path):
    """(model, job, method) on `tiny`, which is streamed if the case says so."""
    name, _, streamed = case.partition(" ")
    compute = Compute(stream=bool(streamed))
    model = loading.load(TINY, compute)
    job = replace(job_for(model), source=TINY, compute=compute, calibration=tokens, workdir=workdir)
    job = replace(job, targets=targets_of("tiny", name, job))
    return (pruned(model, job) if name in QUANTIZERS else model), job, method(name, {})


def targets_of(kind: str, name: str, job: Job) -> tuple[str, ...]:
    last = job.targets[-1].split(".")[2]
    return tuple(t for t in job.targets if name not in LAST_BLOCK[kind] or t.split(".")[2] == last)


def method(name: str, config: dict[str, Any]):
    entry = {**METHODS, **QUANTIZERS}[name]
    return choice.build(entry, name, config)


def main(out: str, *worlds: str) -> None:
    """Calibrate cases into a folder, for each "WORLD,CASE,CASE". "tiny " precedes those on it."""
    for asked in worlds:
        number, *cases = asked.split(",")
        run_ranks(int(number), work, Path(out), cases)


def work(out: Path, cases: list[str]) -> None:
    tokens = load_file(out / "tokens.safetensors")["tokens"]
    rank, done = dist.get_rank(), out / str(dist.get_world_size())
    for case in [case for case in (*TINY_METHODS, STREAMED) if f"tiny {case}" in cases]:
        folder = done / "tiny" / case
        keep(*tiny_case(case, tokens, folder / f"work {rank}"), folder)
    mean_float64(pytest.MonkeyPatch())
    for case in [case for case in EXACT if case in cases]:  # every process in one order
        folder = done / "exact" / case
        keep(*exact_case(case, folder / f"source {rank}"), folder)


def keep(model, job, method, folder: Path) -> None:
    outcome = method.apply(model, job)
    store(outcome.stored, folder / f"of rank {dist.get_rank()}", str(job.pattern))
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "notes.json").write_text(json.dumps(dict(outcome.notes)))
        if isinstance(outcome.model, Path):
            shutil.copy2(job.source / "config.json", outcome.model)
            outcome.model.rename(folder / "model")
        else:
            (folder / "model").mkdir()
            write(outcome.model, folder / "model")
    dist.barrier()
