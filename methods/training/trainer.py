"""The trainer of every method that trains: a token budget, a schedule, distillation, checkpoints it goes on from."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from methods.contract import Job
from methods.errors import Diverged, UserError
from methods.targets import family_of
from methods.training import checkpoint, distill, ranks
from methods.training.settings import Settings
from methods.training.student import Student, head_of, hidden_states

LOG_EVERY = 10
"""Steps between two looks at the losses: each look waits for the device."""
CURVE = 200
"""Rows of the curve that end up in the notes."""
CHECKPOINT_S = 300
DIVERGED_AT = 3.0
"""A cross-entropy of so many times its start is a divergence."""


class Hook(Protocol):
    """What a method does with the model before each step's forward pass; returns figures for the curve, if any."""

    def __call__(self, step: int, total: int) -> dict[str, float] | None: ...


class Trainer:
    """Train `model` on a job's corpus for its token budget.

        trainer = Trainer("cast", model, job, settings)      # float32 masters, gradients on
        trainer.run(optimizer, teacher=True)                  # from the last checkpoint, where one is
        notes = trainer.notes()

    One code path for any model and any number of ranks.
    """

    def __init__(self, name: str, model: nn.Module, job: Job, settings: Settings) -> None:
        """
        Raises:
            UserError: no step fits the budget, or a setting is out of range.
        """
        settings.check(name)
        if job.training is None:
            raise RuntimeError("this job has no corpus: the method's `needs` must name TRAINING")
        self.name, self.job, self.settings, self.corpus = name, job, settings, job.training
        self.total = job.budget.tokens // self.corpus.step_tokens
        if self.total < 1:
            raise UserError(
                f"training.tokens={job.budget.tokens} is not one step of {self.corpus.step_tokens} tokens: "
                "raise it, or lower training.batch"
            )
        self.model = model.float().requires_grad_(True)
        self.student = Student(self.model)
        self.device = job.compute.device
        self.curve: list[dict[str, float]] = []
        self.first = math.nan
        self.perplexities: dict[str, float] = {}
        self._autocast = job.compute.dtype if job.compute.dtype != torch.float32 else None
        self.rank, self.world = ranks.rank_and_world()
        if self.corpus.step_tokens % self.world:
            raise UserError(f"a step's tokens cannot be shared by {self.world} processes: change training.batch")
        if settings.recompute:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
            _no_dropout(self.model)
            self.model.train()  # transformers recomputes in training mode only
        self._plain = copy.deepcopy(self.model).cpu() if self.world > 1 and self.rank == 0 else self.model
        self._sharded = self.world > 1
        if self._sharded:
            path = family_of(self.model.config.to_dict()).blocks  # type: ignore[operator, union-attr]
            ranks.shard(self.student, self.model.get_submodule(path).children(), self.device)

    def parameters(self, targets: Iterable[str]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The targets' own weights, and all other parameters."""
        theta = []
        for name in targets:
            module = self.model.get_submodule(name)
            own = module.parametrizations.weight.original if hasattr(module, "parametrizations") else module.weight  # type: ignore[union-attr]
            theta.append(own)
        chosen = {id(p) for p in theta}
        return theta, [p for p in self.model.parameters() if id(p) not in chosen]  # type: ignore[return-value]

    def train_only(self, part: str) -> None:
        """Freeze all parameters but those whose name contains `part`."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(part in name)

    def run(self, optimizer: torch.optim.Optimizer, *, teacher: bool, hook: Hook | None = None) -> None:
        """All steps that are left.

        Raises:
            Diverged: the loss is not finite, or three times its start.
            UserError: the teacher has another vocabulary.
        """
        settings, total = self.settings, self.total
        start = self._resume(optimizer)
        guide = self._teacher() if teacher and settings.eta else None
        if start == 0:
            self.perplexities["start"] = self.perplexity()
        pending: list[tuple[int, dict[str, float], Tensor]] = []
        began = saved = time.monotonic()
        for step in range(start, total):
            figures = dict(hook(step, total) or {}) if hook else {}
            lr = settings.lr_at(step, total)
            for group in optimizer.param_groups:
                group["lr"] = lr
            losses = self._gradients(step, guide)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            seen = torch.cat([ranks.all_reduce_mean(losses), ranks.full_tensor(norm).reshape(1).to(losses)])
            pending.append((step, {"lr": lr} | figures | getattr(optimizer, "figures", {}), seen))
            if (step + 1) % LOG_EVERY == 0 or step + 1 == total:
                self._look(pending)
                pending.clear()
                rate = (step + 1 - start) * self.corpus.step_tokens / (time.monotonic() - began)
                self.job.progress.advance(step + 1, total, loss=self.curve[-1]["loss"], tokens_per_s=round(rate))
                due = time.monotonic() - saved > CHECKPOINT_S and step + 1 < total
                if ranks.any_rank(due):
                    self._save(optimizer, step + 1)
                    saved = time.monotonic()

    def _gradients(self, step: int, guide: nn.Module | None) -> Tensor:
        """Accumulate the gradients of one step; mean loss, CE and KL a token."""
        batch = self.corpus.batch(step, self.rank, self.world).to(self.device)
        count = batch.shape[0] * (batch.shape[1] - 1)
        sums = torch.zeros(3, device=self.device)
        for ids in batch.split(self.job.budget.micro or len(batch)):
            with self._precision():
                theirs = None
                if guide is not None:
                    with torch.no_grad():
                        theirs = distill.Teacher(hidden_states(guide, ids), head_of(guide))
                loss, ce, kl = self.student(ids, theirs, self.settings.eta, self.settings.temperature, 1 / count)
            loss.backward()
            sums += torch.stack([loss.detach() * count, ce, kl])
        return sums / count

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, self._autocast) if self._autocast else nullcontext()

    def _teacher(self) -> nn.Module:
        guide = self.job.teacher()
        mine, theirs = len(head_of(self.model)), len(head_of(guide))
        if mine != theirs:
            raise UserError(f"the teacher knows {theirs} tokens and the student {mine}: they must share a vocabulary")
        return guide.eval().requires_grad_(False)

    def _look(self, pending: list[tuple[int, dict[str, float], Tensor]]) -> None:
        """Read the losses of the steps since the last look, and stop where they say so."""
        table = torch.stack([seen for _, _, seen in pending]).tolist()
        for (step, _, _), (loss, ce, _, norm) in zip(pending, table, strict=True):
            if not self.curve and step == pending[0][0]:
                self.first = ce
            if not (math.isfinite(loss) and math.isfinite(norm)) or ce > DIVERGED_AT * self.first:
                last = checkpoint.newest(self.job.workdir)
                raise Diverged(
                    f"{self.name} at step {step + 1} of {self.total}: cross-entropy {ce:.4g} from {self.first:.4g}, "
                    f"gradient norm {norm:.4g}; last good checkpoint: {last.name if last else 'none'}"
                )
        mean = [sum(column) / len(table) for column in zip(*table, strict=True)]
        step, figures, _ = pending[-1]
        row = {"step": step + 1} | figures | dict(zip(("loss", "ce", "kl", "norm"), mean, strict=True))
        self.curve.append({k: float(f"{v:.6g}") for k, v in row.items()})

    @torch.no_grad()
    def perplexity(self) -> float:
        """On the job's validation windows."""
        windows = self.job.validation
        if windows is None:
            return math.nan
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        for ids in windows.split(self.job.budget.micro or 8):
            with self._precision():
                total += self.student(ids.to(self.device), None, 0.0, 1.0, 1.0)[1]
        return math.exp(min(700.0, float(total) / (windows.shape[0] * (windows.shape[1] - 1))))

    def mark(self, name: str) -> None:
        """Write down the validation perplexity as it is now."""
        self.perplexities[name] = self.perplexity()

    def done(self, finish: Callable[[nn.Module], None] | None = None) -> nn.Module:
        """The model as the job wants it back: whole, in its dtype, frozen, in eval mode.

        finish: what is left to do to the whole model. With several processes only the first has it, and only there is
        `finish` called; the others hand back their shards, which nobody reads.
        """
        self._gather()
        if finish and self.rank == 0:
            finish(self.model)
        if self.settings.recompute:
            self.model.gradient_checkpointing_disable()  # type: ignore[operator]
        return self.model.to(self.job.compute.dtype).eval().requires_grad_(False)

    @torch.no_grad()
    def _gather(self) -> None:
        if not self._sharded:
            return
        names = dict(self._plain.named_parameters()) if self.rank == 0 else {}
        for name, parameter in self.model.named_parameters():
            full = ranks.full_tensor(parameter)
            if self.rank == 0:
                names[name].copy_(full)
        if self.rank == 0:
            for mine, theirs in zip(self._plain.buffers(), self.model.buffers(), strict=True):
                mine.copy_(theirs)
        self.model, self._sharded = self._plain, False

    def notes(self, **more: Any) -> dict[str, Any]:
        """The diary: what was trained on, the curve, validation perplexities."""
        seen = self.total * self.corpus.step_tokens
        stride = max(1, math.ceil(len(self.curve) / CURVE))
        return {
            "training": {
                "steps": self.total,
                "tokens": seen,
                "unique_tokens": min(seen, self.corpus.tokens),
                "epochs": float(f"{seen / self.corpus.tokens:.4g}"),
                "tokens_digest": self.corpus.digest,
            },
            "validation_perplexity": {k: float(f"{v:.6g}") for k, v in self.perplexities.items() if math.isfinite(v)},
            "curve": self.curve[stride - 1 :: stride],
            **more,
        }

    def _tensors(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        held: dict[str, Tensor] = {f"model.{n}": p.detach() for p, n in names.items()}
        held |= {f"buffer.{n}": b for n, b in self.model.named_buffers()}
        for p, state in optimizer.state.items():
            held |= {f"optimizer.{names[p]}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        return held

    def _save(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        groups = [
            {k: v for k, v in g.items() if k != "params" and isinstance(v, (int, float, bool, str))}
            for g in optimizer.param_groups
        ]
        about = {"step": step, "total": self.total, "groups": groups, "curve": self.curve, "first": self.first}
        about |= {"perplexities": self.perplexities, "figures": getattr(optimizer, "figures", {})}
        checkpoint.write(self.job.workdir, step, self._tensors(optimizer), about)

    def _resume(self, optimizer: torch.optim.Optimizer) -> int:
        folder = checkpoint.newest(self.job.workdir)
        if folder is None:
            return 0
        about = checkpoint.about(folder)
        _materialize(optimizer)
        with torch.no_grad():
            checkpoint.read_into(folder, self._tensors(optimizer))
        for group, was in zip(optimizer.param_groups, about["groups"], strict=True):
            group.update(was)
        self.curve, self.first, self.perplexities = about["curve"], about["first"], about["perplexities"]
        if about["figures"]:
            optimizer.figures = about["figures"]  # type: ignore[attr-defined]
        return int(about["step"])


def _no_dropout(model: nn.Module) -> None:
    """Some layers keep the rate as a number and look at the mode themselves."""
    for module in model.modules():
        for key, value in vars(module).items():
            if "drop" in key and isinstance(value, float):
                setattr(module, key, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _materialize(optimizer: torch.optim.Optimizer) -> None:
    """Make torch's own optimizers allocate their state, as their first step would, without moving a weight."""
    if optimizer.state:
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr


def outside(model: nn.Module, targets: Iterable[str]) -> frozenset[str]:
    """Names of all parameters but the targets' weights: what a method declares that trains everything."""
    own = {f"{t}.weight" for t in targets}
    return frozenset(n for n, _ in model.named_parameters(remove_duplicate=True) if n not in own)
