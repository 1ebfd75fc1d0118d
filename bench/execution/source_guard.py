"""Guards against sources that change during a run: code and text since the plan, and a model that a
method writes into."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

from bench.catalog import registry
from bench.catalog.code import measure_digest, method_digest
from bench.inputs import corpora, models, own_text, tasks, training_text
from bench.inputs.mixtures import shares_of
from bench.inputs.task_yaml import read_task
from bench.planning.artifact import Artifact, Measurement
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.digests import FileState
from bench.system.source_digest import digest_source
from bench.verify import CheckFailed
from methods.contract.errors import UserError


@contextlib.contextmanager
def read_only(folder: Path, names: Collection[str], label: str) -> Iterator[None]:
    """Raise CheckFailed if the block changes the weights of a model folder, or its files `names`.

    A file is digested again only if its size or its times changed. Without an earlier digest it
    counts as changed. A changed artifact in the cache is deleted, and built again later.
    """
    for name in names:
        if (folder / name).is_file():
            digests.of_file(folder / name)
    before, fault = _states(folder, names), None
    try:
        yield
    except Exception as raised:  # noqa: BLE001  (raised again below)
        fault = raised
    after = _states(folder, names)
    changed = [
        n for n in sorted(before | after) if _has_changed(folder / n, before.get(n), after.get(n))
    ]
    if changed:
        for name in changed:
            digests.forget(folder / name)
        if folder.parent == cache_dir() / "artifacts":
            shutil.rmtree(folder, ignore_errors=True)
        raise CheckFailed(
            f"{label} wrote into its source: {', '.join(changed)} changed in {folder}"
        ) from fault
    if fault:
        raise fault


def require_planned(artifact: Artifact, measurements: Iterable[Measurement] = ()) -> None:
    """Raise CheckFailed if the model, a text of the user or the code is no longer that of the
    plan."""
    for read in (digest_source, read_task):
        read.cache_clear()
    changed = next(_changes(artifact, measurements), "")
    if changed:
        raise CheckFailed(f"{changed} changed since this run began: run the same command again")


def _changes(artifact: Artifact, measurements: Iterable[Measurement]) -> Iterator[str]:
    """Yield what is no longer as planned."""
    model = None
    with contextlib.suppress(UserError):
        model = models.resolve(artifact.model, artifact.data_dir)
    if model is None or model.digest != artifact.digest:
        yield f"model folder {artifact.folder}"
    for name, content, digest_now in _texts(artifact, measurements):
        if any(map(own_text.parse, shares_of(name))) and digest_now() != content:
            yield f"text {name}"
    for stage in artifact.stages:
        if method_digest(registry.lookup(stage.kind, stage.name)) != stage.source:
            yield f"the code of {stage.name}"
    for measurement in measurements:
        if measure_digest(registry.lookup("measures", measurement.measure)) != measurement.source:
            yield f"the code of {measurement.measure}"
        task, file = (measurement.config.get(key, "") for key in ("task", "file"))
        is_own = Path(file).is_absolute()
        if (
            is_own
            and tasks.data_digest(read_task(task, file), artifact.data_dir) != measurement.content
        ):
            yield f"task {task}"


def _texts(
    artifact: Artifact, measurements: Iterable[Measurement]
) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Yield each text that is read, its digest in the plan, and a function that returns its digest
    now."""
    data_dir, calibration, training = artifact.data_dir, artifact.calibration, artifact.training
    digest = partial(corpora.digest, data_dir=data_dir, fetch=False)
    if calibration:
        now = partial(digest, calibration.data, "calibration")
        yield calibration.data, calibration.content, now
    if training:
        now = partial(training_text.content_digest, training.data, data_dir)
        yield training.data, training.content, now
    for measurement in measurements:
        name = measurement.config.get("corpus")
        if name:
            yield name, measurement.content, partial(digest, name, "evaluation")


def _states(folder: Path, names: Collection[str]) -> dict[str, FileState]:
    files = [
        p for p in folder.iterdir() if (p.name in names or ".safetensors" in p.name) and p.is_file()
    ]
    return {file.name: digests.state_of(file.stat()) for file in files}


def _has_changed(file: Path, before: FileState | None, after: FileState | None) -> bool:
    if before == after:
        return False
    known = before and after and digests.remembered(file, before)
    return not known or digests.read(file) != known
