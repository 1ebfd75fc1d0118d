"""Checks of a method. Each takes a subject, and raises NotConformant or an error of the method."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

from bench import verify
from bench.formats import stored
from bench.parts.conformance.subject import Subject, sample
from methods.contract.info import Does
from methods.contract.method import Needs
from methods.contract.pattern import Pattern
from methods.model.folder import dtype_name
from methods.model.low_rank_adapter import CHILD
from methods.model.targets import dense_weight
from methods.model.terms import Factors


class NotConformant(AssertionError):
    """A method does not do what a caller may expect."""


Check = Callable[[Subject], None]


def require(condition: object, sentence: str) -> None:
    """Raise NotConformant with a sentence if the condition is false."""
    if not condition:
        raise NotConformant(sentence)


def declares_itself(subject: Subject) -> None:
    """Check that the class has the name and valid needs, and that the settings are JSON."""
    kind = type(subject.method)
    require(
        kind.name == subject.name,
        f"its class is named {kind.name!r}, and it is installed as {subject.name!r}",
    )
    require(isinstance(kind.needs, Needs), "`needs` is not a methods.Needs")
    require(
        isinstance(getattr(kind, "shares_calibration", False), bool),
        "`shares_calibration` is not true or false",
    )
    fields = dataclasses.asdict(subject.method)  # type: ignore[call-overload]  # the catalog takes dataclasses alone
    require(_is_json(fields), "a setting is not a JSON value: use numbers, text, true and false")


def prunes_its_targets_and_nothing_else(subject: Subject) -> None:
    """Check that the targets follow the pattern, and that every other change is declared. One block
    is no target."""
    job, model = subject.job, subject.model
    job = dataclasses.replace(job, targets=job.targets[: -(len(job.targets) // 4)])
    outcome = subject.apply(job)
    before, after = model.state_dict(), outcome.model.state_dict()  # type: ignore[union-attr]
    require(before.keys() == after.keys(), "it added or removed tensors")
    weights = {f"{target}.weight" for target in job.targets}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    declared = set(outcome.changed)
    require(not declared & weights, "Outcome.changed names a target: it is for other tensors")
    does = subject.entry.does
    is_free = not does & Does.LEAVES_DENSE or subject.entry.trains or Does.KEEPS_FUNCTION in does
    free = weights if is_free else set()
    wrong = sorted(changed - declared - free)
    if wrong:
        raise NotConformant(
            f"{wrong[0]} changed, and it is neither a target nor in Outcome.changed"
        )
    if not subject.prunes:
        return
    for target in job.targets:
        weight = dense_weight(outcome.model.get_submodule(target))  # type: ignore[union-attr]
        require(job.pattern.violations(weight) == 0, f"{target} does not follow {job.pattern}")


def keeps_its_function(subject: Subject) -> None:
    """Check that a transform keeps the logits."""
    if Does.KEEPS_FUNCTION in subject.entry.does:
        model, tokens = subject.model, torch.arange(32, device=subject.job.compute.device)[None]
        try:
            tolerance = verify.FUNCTION_TOLERANCE[dtype_name(subject.job.compute.dtype)]
            verify.check_function(model, subject.applied(), tokens, tolerance)
        except verify.CheckFailed as fault:
            raise NotConformant(str(fault)) from None


def gives_the_same_twice(subject: Subject) -> None:
    """Check that one seed gives one model and one set of notes."""
    one, two = subject.apply(), subject.apply()
    require(one.notes == two.notes, "two runs with one seed differ in their notes")
    tensors = two.model.state_dict()  # type: ignore[union-attr]
    for key, tensor in one.model.state_dict().items():  # type: ignore[union-attr]
        require(torch.equal(tensor, tensors[key]), f"two runs with one seed differ in {key}")


def keeps_the_dtype(subject: Subject) -> None:
    """Check that weights of each dtype keep it and are finite."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        if subject.job.training and dtype == torch.float16:
            # The trainer refuses float16, in which small gradients vanish.
            continue
        model = copy.deepcopy(subject.model).to(dtype)
        job = dataclasses.replace(
            subject.job, compute=dataclasses.replace(subject.job.compute, dtype=dtype)
        )
        if Needs.TEACHER in subject.method.needs:
            job = dataclasses.replace(job, teacher=partial(copy.deepcopy, model))
        for key, tensor in subject.applied(job, model).state_dict().items():
            require(tensor.dtype == dtype, f"{key} became {tensor.dtype} in a model of {dtype}")
            require(tensor.isfinite().all(), f"{key} is not finite in {dtype}")


def stores_its_weights(subject: Subject) -> None:
    """Check that the stored tensors can be written, and give the weights of the model."""
    outcome = subject.apply()
    if not outcome.stored:
        return
    with TemporaryDirectory() as folder:
        weights = {
            target: dense_weight(outcome.model.get_submodule(target))  # type: ignore[union-attr]
            for target in outcome.stored
        }
        shapes = {target: tuple(weight.shape) for target, weight in weights.items()}
        stored.write(Path(folder), outcome.stored, shapes, Pattern())
        for target, one in stored.StoredFolder(Path(folder)).items():
            weight = weights[target]
            same = torch.equal(one.decode().to(weight.dtype), weight)
            require(same, f"the stored tensors of {target} give another weight than its model has")


def notes_are_json(subject: Subject) -> None:
    """Check that a record can store the notes."""
    notes = subject.apply().notes
    require(
        isinstance(notes, Mapping) and _is_json(dict(notes)),
        "its notes are not a JSON object without NaN",
    )


def leaves_its_job_alone(subject: Subject) -> None:
    """Check that the calibration tokens and the source folder are unchanged."""
    job = subject.job
    files = _digests(job.source)
    tokens = None if job.calibration is None else job.calibration.clone()
    subject.apply()
    require(
        tokens is None or torch.equal(job.calibration, tokens),  # type: ignore[arg-type]
        "it wrote into the calibration tokens",
    )
    require(_digests(job.source) == files, "it wrote into its source folder")


def leaves_nothing_running(subject: Subject) -> None:
    """Check that it ends the processes that it starts."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    subject.apply()
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    for child in left:
        child.kill()
    require(not left, f"it left {len(left)} processes running: end them before `apply` returns")


def leaves_a_model_that_trains(subject: Subject) -> None:
    """Check that the model has its own modules, no hook but that of a low-rank term, and a gradient
    for every parameter."""
    model = subject.applied()
    hooked = (
        m
        for m in model.modules()
        if m._forward_pre_hooks or len(m._forward_hooks) > hasattr(m, CHILD)
    )
    require(not list(hooked), "it left a hook in the model")
    kinds = [type(module) for module in model.modules() if not isinstance(module, Factors)]
    require(
        kinds == [type(module) for module in subject.model.modules()],
        "it left other modules in the model",
    )
    model.requires_grad_(True)
    ids = torch.arange(16, device=subject.job.compute.device)[None]
    model(ids, labels=ids).loss.backward()
    require(
        all(p.grad is not None for p in model.parameters()),
        "a parameter of its model gets no gradient",
    )


CHECKS: tuple[Check, ...] = (
    declares_itself,
    prunes_its_targets_and_nothing_else,
    keeps_its_function,
    gives_the_same_twice,
    keeps_the_dtype,
    stores_its_weights,
    notes_are_json,
    leaves_its_job_alone,
    leaves_nothing_running,
    leaves_a_model_that_trains,
)


def row(check: Callable[[Any], None], subject: Any) -> dict[str, str]:
    """Return the row of a check: its name in words, its state, and the fault that it found."""
    state, detail = "failed", ""
    try:
        check(subject)
        state = "ok"
    except NotConformant as fault:
        detail = str(fault)
    except Exception as fault:  # noqa: BLE001  (a method may raise anything)
        detail = f"{type(fault).__name__}: {' '.join(str(fault).split())}"
    return {"check": check.__name__.replace("_", " "), "state": state, "detail": detail}


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def rows(text: str, kind: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each check: its state, and the fault that it found. Raise Skipped if it
    cannot run here."""
    for check in CHECKS:
        # Each check gets a new subject, which no other check has changed.
        with sample(text, kind) as subject:
            before = set(psutil.Process().children(recursive=True))
            try:
                found = row(check, subject)
            finally:
                for left in set(psutil.Process().children(recursive=True)) - before:
                    left.kill()
        yield found
