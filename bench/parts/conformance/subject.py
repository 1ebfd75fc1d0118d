"""A method, and a small model and job to try it on."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from bench.catalog import choice, named_files, registry
from bench.catalog.declarations import CatalogEntry
from bench.inputs import loading
from bench.inputs.training_text import PackedCorpus
from methods.contract.errors import Skipped
from methods.contract.info import Does
from methods.contract.method import Budget, Compute, Job, Method, Needs, Outcome, Prior
from methods.contract.pattern import Pattern
from methods.model.folder import Folder
from methods.model.targets import dense_weight, find_targets

SEQUENCES, SEQLEN, STEPS = 6, 16, 4


@dataclass(frozen=True)
class Subject:
    """A method with its settings, and what it is applied to."""

    name: str
    entry: CatalogEntry
    kind: str
    """Section of the catalog: methods or quantizers."""
    method: Method
    model: nn.Module
    job: Job

    @property
    def prunes(self) -> bool:
        return self.kind == "methods" and not self.entry.does & Does.LEAVES_DENSE

    def apply(self, job: Job | None = None, model: nn.Module | None = None) -> Outcome:
        """Apply the method to a copy of the model, in a new working folder, as a worker does."""
        job = job or self.job
        torch.manual_seed(job.seed)
        with TemporaryDirectory(dir=job.workdir) as workdir:
            return self.method.apply(
                copy.deepcopy(model or self.model), replace(job, workdir=Path(workdir))
            )

    def applied(self, job: Job | None = None, model: nn.Module | None = None) -> nn.Module:
        """Apply the method, and return the model of its outcome."""
        outcome = self.apply(job, model).model
        if not isinstance(outcome, nn.Module):
            raise TypeError(
                f"it returned {type(outcome).__name__} for a model in memory: return the model"
            )
        return outcome


@contextmanager
def sample(text: str, kind: str = "methods") -> Iterator[Subject]:
    """Yield a typed method, a bundled model, and a job that has everything it needs. Raise Skipped
    if it cannot run here."""
    (named,) = named_files.with_names(kind, [text])
    typed = choice.parse_method(named, kind)
    entry = registry.lookup(kind, typed.name)
    method = choice.build(entry, typed.name, typed.config)
    needs = method.needs
    if Needs.ISOLATED in needs:
        raise Skipped("it runs in a separate environment")
    if Needs.CUDA in needs and not torch.cuda.is_available():
        raise Skipped("it needs a CUDA device")
    device = torch.device("cuda" if Needs.CUDA in needs else "cpu")
    with TemporaryDirectory(prefix="cast-bench-") as home:
        source, workdir = Path(home) / "source", Path(home) / "work"
        # The method that runs before it may be one that removes parts.
        first = registry.lookup(kind, entry.after) if entry.after and kind == "methods" else entry
        removed = [part.axis for part in (*entry.removes, *first.removes)]
        bundled = "tiny-moe" if "experts" in removed else "tiny"
        shutil.copytree(str(resources.files("bench").joinpath("assets", bundled)), source)
        workdir.mkdir()
        folder, compute = Folder(source), Compute(device=device)
        model = loading.load(source, compute)
        is_dense = kind != "methods" or removed or entry.does & Does.LEAVES_DENSE
        pattern = "dense" if is_dense else "2:4"
        job = Job(
            source=source,
            pattern=Pattern.parse(pattern),
            targets=find_targets(folder.config, folder.shapes()),
            compute=compute,
            workdir=workdir,
        )
        yield Subject(
            typed.name,
            entry,
            kind,
            method,
            model,
            _supply(job, model, needs, typed.prior is not None),
        )


def _supply(job: Job, model: nn.Module, needs: Needs, refines: bool) -> Job:
    """Return the job with the inputs that a method needs, and no others."""
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if Needs.CALIBRATION in needs:
        tokens = torch.randint(
            vocabulary, (SEQUENCES, SEQLEN), generator=torch.Generator().manual_seed(0)
        )
        job = replace(job, calibration=tokens)
    if Needs.TRAINING in needs:
        ids = np.cumsum(np.random.default_rng(0).choice([1, 1, 1, 5], size=4000)) % vocabulary
        corpus = PackedCorpus(ids.astype(np.uint16), seqlen=SEQLEN, sequences=8, seed=0)
        windows = torch.from_numpy(ids[: 4 * SEQLEN].astype(np.int64)).view(4, SEQLEN)
        budget = Budget(tokens=STEPS * corpus.step_tokens, micro=4)
        job = replace(job, training=corpus, validation=windows, budget=budget)
    if Needs.TEACHER in needs:
        job = replace(job, teacher=lambda: copy.deepcopy(model))
    if refines:
        masks = {
            t: job.pattern.keep(dense_weight(model.get_submodule(t)).abs().float())
            for t in job.targets
        }
        job = replace(job, prior=Prior(folder=job.source, masks=masks))
    return job
