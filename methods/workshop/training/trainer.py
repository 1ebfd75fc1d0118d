"""The trainer of all training methods: token budget, schedule, teacher, checkpoints, several
processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from methods.contract.errors import Diverged, UserError
from methods.contract.method import Job
from methods.model.experts import unfold
from methods.workshop.training import compiled, process_group, training_checkpoint
from methods.workshop.training.batch_upload import Batches
from methods.workshop.training.block_outputs import BlockOutputs
from methods.workshop.training.gather import Finish, Skeleton
from methods.workshop.training.interrupt import Stopped, stop_request
from methods.workshop.training.loss import CrossEntropy
from methods.workshop.training.rounded_rows import RoundedRows, rounded_rows
from methods.workshop.training.saver import Saver
from methods.workshop.training.settings import TrainingSettings, require_trainable
from methods.workshop.training.student import FrozenTeacher, Student, unpacked

MAX_CURVE_ROWS = 200
"""Largest number of rows of the curve in the notes."""
DIVERGED_AT = 3.0
"""Ratio to the initial cross-entropy at which a training has diverged."""
SLOW_STEP_S = 1.0
"""Seconds of a step from which on processes agree after each step whether to save. Below, they
agree when they log."""

Pending = list[tuple[int, dict[str, float], Tensor]]
"""Steps whose losses are not read yet: step, metrics, and the values on the device."""


class Hook(Protocol):
    """A function that is called before the forward pass of each step. It may return metrics for the
    curve.

    After a stop within a step, the resumed training calls it for that step again. The checkpoint
    has what the first call changed.
    """

    def __call__(self, step: int, total: int) -> dict[str, float] | None: ...


class Trainer:
    """Train `model` on a job's corpus for its token budget.

        trainer = Trainer("cast", model, job, settings)      # float32 weights, gradients on
        trainer.run(optimizer)                                # resumes from the last checkpoint
        return Outcome(trainer.finalize(), notes=trainer.notes())

    The same for any model, any number of ranks, and any loss: `settings.loss()`.
    """

    def __init__(self, name: str, model: nn.Module, job: Job, settings: TrainingSettings) -> None:
        """
        Raises:
            UserError: the budget is less than one step, or a step cannot be divided among the
                processes.
        """
        if job.training is None:
            raise RuntimeError("this job has no corpus: the method's `needs` must name TRAINING")
        require_trainable(str(job.compute.dtype).removeprefix("torch."))
        self.name, self.job, self.settings, self.corpus = name, job, settings, job.training
        self.total = job.budget.tokens // self.corpus.step_tokens
        if self.total < 1:
            raise UserError(
                f"training.tokens={job.budget.tokens} is less than one step of "
                f"{self.corpus.step_tokens} tokens: raise it, or lower training.batch"
            )
        self.rank, self.world = process_group.rank_and_world()
        self._sharded = self.world > 1
        model = unfold(model)
        self.model = (model if self._sharded else model.float()).requires_grad_(True)
        self.student = Student(self.model)
        self.device = job.compute.device
        self.curve: list[dict[str, float]] = []
        self.initial_ce = math.nan
        self.perplexities: dict[str, float] = {}
        self._autocast = job.compute.dtype if job.compute.dtype != torch.float32 else None
        if self.corpus.step_tokens % self.world:
            raise UserError(
                f"a step cannot be divided among {self.world} processes: use a training.batch "
                f"that is a multiple of {self.world}"
            )
        if settings.recompute:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
            _no_dropout(self.model)
            self.model.train()  # transformers recomputes activations in training mode only
        self._worlds = [self.world]
        self.loss = settings.loss()
        self._rounded: list[RoundedRows] = []
        self._skeleton = Skeleton(self.model) if self._sharded else None
        self._compiles = compiled.is_wanted(settings.compile, self.device)
        if self._compiles:
            compiled.start()
            compiled.compile_blocks(self.model)
        if self._sharded:
            blocks = compiled.blocks_of(self.model)
            process_group.shard(self.student, blocks, self.device)
            if self._autocast:
                for block in blocks:
                    self._rounded.extend(rounded_rows(block, self._autocast))
        if self.loss.blocks_every:
            self.student.outputs = BlockOutputs(self.model, self.loss.blocks_every)
        self._batches = Batches(self.corpus, self.device, self.rank, self.world)
        if settings.relative_lr:
            self.peak_lr = settings.relative_lr * self._weight_scale()
        else:
            self.peak_lr = settings.lr

    def parameters(self, targets: Iterable[str]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters of the targets' weights, and all other parameters."""
        theta = []
        for name in targets:
            module = self.model.get_submodule(name)
            held: Any = module
            if hasattr(module, "parametrizations"):
                theta.append(held.parametrizations.weight.original)
            else:
                theta.append(held.weight)
        ids = {id(p) for p in theta}
        return theta, [p for p in self.model.parameters() if id(p) not in ids]

    def _weight_scale(self) -> float:
        """Return the root mean square of the targets' weights, or 1 if all are zero."""
        weights = [process_group.local(w.detach()) for w in self.parameters(self.job.targets)[0]]
        squares = sum(float(w.square().sum(dtype=torch.float64)) for w in weights)
        squares, count = process_group.all_reduce_sum(squares, sum(w.numel() for w in weights))
        return math.sqrt(squares / count) or 1.0

    def groups(self, targets: Iterable[str]) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer: the targets' weights with `sparse`, and the
        rest."""
        theta, rest = self.parameters(targets)
        return [{"params": theta, "sparse": True}, {"params": rest}]

    def train_only(self, part: str) -> None:
        """Freeze all parameters except those whose name contains `part`."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(part in name)

    @unpacked()
    def run(self, optimizer: torch.optim.Optimizer, *, hook: Hook | None = None) -> None:
        """Run all remaining steps. The device is synchronized only to read losses or save a
        checkpoint.

        Raises:
            Diverged: the loss is not finite, or the cross-entropy is three times the initial one.
            Stopped: a signal asked this process to end. The state is saved.
            UserError: the loss cannot compare the teacher with the student.
        """
        self._saver = Saver(self.job.workdir, self.job.budget.checkpoint_s)
        try:
            self._run(optimizer, hook)
        finally:
            self._saver.wait()

    def _run(self, optimizer: torch.optim.Optimizer, hook: Hook | None) -> None:
        settings, total = self.settings, self.total
        start, pending = self._resume(optimizer)
        teacher_model = self._load_teacher() if self.loss.needs_teacher else None
        if start == 0:
            self.log_validation("start")
        started = time.monotonic()
        timed, agrees = start, True
        for step in range(start, total):
            metrics = dict(hook(step, total) or {}) if hook else {}
            lr = settings.lr_at(step, total, self.peak_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            losses = self._gradients(step, teacher_model)
            if losses is None:
                optimizer.zero_grad()
                if step > start:  # else a checkpoint is as new as this state
                    self._save(optimizer, step, pending)
                raise Stopped
            norm = torch.nn.utils.clip_grad_norm_(
                self.model.parameters(), settings.grad_clip or math.inf
            )
            optimizer.step()
            optimizer.zero_grad()
            values = torch.cat(
                [
                    process_group.all_reduce_mean(losses),
                    process_group.full_tensor(norm).reshape(1).to(losses),
                ]
            )
            pending.append((step, {"lr": lr} | metrics, values))
            if step + 1 < total:
                self._batches.prefetch(step + 1)
            done, logs = step + 1, (step + 1) % self.job.budget.log_every == 0 or step + 1 == total
            step_s = (time.monotonic() - started) / (done - timed)
            if logs:
                self._log_losses(pending, getattr(optimizer, "metrics", {}))
                pending.clear()
                rate = self.corpus.step_tokens / step_s
                self.job.progress.advance(
                    done, total, loss=self.curve[-1]["loss"], tokens_per_s=round(rate)
                )
            # The losses are read, so the device has finished; the first steps also compile.
            if timed == start and logs:
                started, timed = time.monotonic(), done
            if done < total and (logs or agrees):
                is_due, is_stopped, is_slow = process_group.any_rank(
                    self._saver.is_due(), stop_request(), step_s >= SLOW_STEP_S
                )
                if is_due or is_stopped:
                    self._save(optimizer, done, pending)
                if is_stopped:
                    raise Stopped
                agrees = self.world == 1 or is_slow

    def _gradients(self, step: int, teacher: FrozenTeacher | None) -> Tensor | None:
        """Accumulate the gradients of one step. Return the means over tokens of the loss's columns.

        Return None if a signal came between two micro-batches. Several processes agree on it after
        the step.
        """
        batch = self._batches.take(step)
        count = batch.shape[0] * (batch.shape[1] - 1)
        sums = torch.zeros(len(self.loss.columns), device=self.device)
        for ids in batch.split(self.job.budget.micro or len(batch)):
            if self.world == 1 and stop_request():
                return None
            with self._precision():
                outputs = teacher(ids) if teacher is not None else None
                loss, *parts = self.student(ids, outputs, self.loss, 1 / count)
            loss.backward()
            sums += torch.stack([loss.detach() * count, *parts])
        for rows in self._rounded:
            rows.finish_gradient()
        return sums / count

    def _precision(self) -> Any:
        if self._autocast:
            return torch.autocast(self.device.type, self._autocast)
        return nullcontext()

    def _load_teacher(self) -> FrozenTeacher:
        teacher = FrozenTeacher(self.job.teacher())
        self.loss.require(self.model, teacher.model)
        if self._compiles:
            compiled.compile_blocks(teacher.model)
        if self._sharded:
            process_group.shard_frozen(
                teacher, compiled.blocks_of(teacher.model), self.device, self.job.compute.dtype
            )
        if self.loss.blocks_every:
            teacher.outputs = BlockOutputs(teacher.model, self.loss.blocks_every)
        return teacher

    def _read_losses(self, pending: Pending) -> list[list[float]]:
        """Return the loss's columns and the gradient norm of each step. Raise Diverged if the
        training has diverged."""
        table: list[list[float]] = (
            torch.stack([values for _, _, values in pending]).tolist() if pending else []
        )
        for (step, _, _), values in zip(pending, table, strict=True):
            row = dict(zip((*self.loss.columns, "norm"), values, strict=True))
            ce = row.get("ce", 0.0)  # a loss without this term is only required to be finite
            if not self.curve and step == pending[0][0]:
                self.initial_ce = ce
            if (
                not (math.isfinite(row["loss"]) and math.isfinite(row["norm"]))
                or ce > DIVERGED_AT * self.initial_ce
            ):
                if "ce" in row:
                    value = f"cross-entropy {ce:.4g} from {self.initial_ce:.4g}"
                else:
                    value = f"loss {row['loss']:.4g}"
                last = training_checkpoint.latest(self.job.workdir)
                checkpoint = last.name if last else "none"
                raise Diverged(
                    f"{self.name} at step {step + 1} of {self.total}: {value}, gradient norm "
                    f"{row['norm']:.4g}; last good checkpoint: {checkpoint}"
                )
        return table

    def _log_losses(self, pending: Pending, of_optimizer: dict[str, float]) -> None:
        """Read the losses of the steps since the last call, and stop if training has diverged."""
        table = self._read_losses(pending)
        mean = [sum(column) / len(table) for column in zip(*table, strict=True)]
        step, metrics, _ = pending[-1]
        row = (
            {"step": step + 1}
            | metrics
            | of_optimizer
            | dict(zip((*self.loss.columns, "norm"), mean, strict=True))
        )
        self.curve.append({k: float(f"{v:.6g}") for k, v in row.items()})

    @torch.no_grad()
    def log_validation(self, name: str) -> None:
        """Record the current validation perplexity under a name, for the notes, if the job has
        validation windows."""
        windows = self.job.validation
        if windows is None:
            return
        # That of a runner has states.
        enter = getattr(self.job.progress, "enter", lambda state: None)
        enter("validating")
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        for ids in windows.split(self.job.budget.micro or 8):
            with self._precision():
                total += self.student(ids.to(self.device), None, CrossEntropy(), 1.0)[1]
        mean = float(total) / (windows.shape[0] * (windows.shape[1] - 1))
        self.perplexities[name] = math.exp(min(mean, 700.0))  # NaN stays
        if not self.curve:
            enter("first step")

    def prune_at_the_end(self, apply_mask: Callable[[], None]) -> dict[str, float]:
        """Call `apply_mask`. Return the relative rise of the validation perplexity as a note, if
        there are windows."""
        self.log_validation("before_final_prune")
        apply_mask()
        self.log_validation("after_final_prune")
        if self.job.validation is None:
            return {}
        before, after = (self.perplexities[k] for k in ("before_final_prune", "after_final_prune"))
        return {"final_prune_cost": float(f"{after / before - 1:.4g}")}

    def finalize(self, finish: Finish | None = None) -> nn.Module | Path:
        """Return the trained model in the job's dtype, frozen and in eval mode, or a folder if
        several processes share it.

        finish: called as finish(model, targets) with all targets, or by the first process block by
        block.
        """
        job = self.job
        if self._compiles or self.loss.blocks_every:
            compiled.restore_blocks(self.model)
        if self._skeleton:
            return self._skeleton.write(
                self.model, job.workdir / "trained", job.compute.stored, job.targets, finish
            )
        if finish:
            finish(self.model, job.targets)
        if self.settings.recompute:
            self.model.gradient_checkpointing_disable()  # type: ignore[operator]
        return self.model.to(job.compute.dtype).eval().requires_grad_(False)

    def notes(self, **more: Any) -> dict[str, Any]:
        """Return notes for the record: training data, curve, validation perplexities."""
        tokens = self.total * self.corpus.step_tokens
        stride = max(1, math.ceil(len(self.curve) / MAX_CURVE_ROWS))
        return {
            "training": {
                "steps": self.total,
                "tokens": tokens,
                "unique_tokens": min(tokens, self.corpus.tokens),
                "epochs": float(f"{tokens / self.corpus.tokens:.4g}"),
                "tokens_digest": self.corpus.digest,
                **({"processes": self._worlds} if self._worlds != [1] else {}),
            },
            "validation_perplexity": {
                k: float(f"{v:.6g}") for k, v in self.perplexities.items() if math.isfinite(v)
            },
            "curve": self.curve[::-stride][::-1],  # with the last step
            **({"compiled": compiled.counts()} if self._compiles else {}),
            **more,
        }

    def _tensors(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        tensors: dict[str, Tensor] = {f"model.{n}": p.detach() for p, n in names.items()}
        tensors |= {f"buffer.{n}": b for n, b in self.model.named_buffers()}
        for p, state in optimizer.state.items():
            tensors |= {
                f"optimizer.{names[p]}.{k}": v for k, v in state.items() if isinstance(v, Tensor)
            }
        return tensors

    def _save(self, optimizer: torch.optim.Optimizer, step: int, pending: Pending) -> None:
        read = self._read_losses(pending)
        groups = []
        for group in optimizer.param_groups:  # without its parameters, which are tensors
            groups.append({k: v for k, v in group.items() if isinstance(v, (int, float, str))})
        info = {
            "step": step,
            "total": self.total,
            "groups": groups,
            "curve": self.curve,
            "initial_ce": self.initial_ce,
        }
        info |= {"perplexities": self.perplexities, "metrics": getattr(optimizer, "metrics", {})}
        info["processes"] = self._worlds
        info["pending"] = [
            [*entry[:2], values] for entry, values in zip(pending, read, strict=True)
        ]
        self._saver.save(step, self._tensors(optimizer), info)

    def _resume(self, optimizer: torch.optim.Optimizer) -> tuple[int, Pending]:
        """Return the step to continue from, and the steps whose losses are pending."""
        folder = training_checkpoint.latest(self.job.workdir)
        if folder is None:
            return 0, []
        info = training_checkpoint.read_info(folder)
        _allocate_state(optimizer)
        with torch.no_grad():
            training_checkpoint.read_into(folder, self._tensors(optimizer))
        for group, values in zip(optimizer.param_groups, info["groups"], strict=True):
            group.update(values)
        self.curve, self.initial_ce, self.perplexities = (
            info["curve"],
            info["initial_ce"],
            info["perplexities"],
        )
        before: list[int] = info["processes"]
        self._worlds = before if before[-1] == self.world else [*before, self.world]
        if info["metrics"]:
            optimizer.metrics = info["metrics"]  # type: ignore[attr-defined]
        pending = [
            (step, metrics, torch.tensor(values, device=self.device))
            for step, metrics, values in info["pending"]
        ]
        return int(info["step"]), pending


def _no_dropout(model: nn.Module) -> None:
    """Set all dropout rates to 0. Some layers keep the rate as a number."""
    for module in model.modules():
        for key, value in vars(module).items():
            if "drop" in key and isinstance(value, float):
                setattr(module, key, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Make torch's optimizers allocate their state without a change to a weight."""
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


@torch.no_grad()
def bake(model: nn.Module, targets: Iterable[str]) -> None:
    """Store the weights that the targets' parametrizations give, and remove these. Outputs do not
    change."""
    for module in map(model.get_submodule, targets):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def other_parameters(model: nn.Module, targets: Iterable[str]) -> frozenset[str]:
    """Return the names of all parameters but the targets' weights: what a method that trains all
    declares as changed."""
    stored, weights = model.state_dict(), {f"{t}.weight" for t in targets}
    return frozenset(
        n
        for n, _ in model.named_parameters(remove_duplicate=True)
        if n in stored and n not in weights
    )
