"""Total time of a plan: its largest parts, and the setting that shortens it most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.catalog import registry
from bench.planning.artifact import Artifact, Measurement
from bench.planning.work import Work, estimate_tokens
from bench.reporting.words import duration

REDUCTION = 4
"""Factor by which a suggested setting divides its value."""
DEFAULT_LIMIT = 100
"""Suggested number of questions of a task that is read whole."""
SHOWN_SHARE = 0.1
"""Smallest share of the total that a part or a saving needs to be shown."""


class PartSeconds(NamedTuple):
    """Seconds of a stage or of a measurement."""

    name: str
    seconds: float
    setting: str = ""
    """Setting that shortens it, as TABLE.FIELD=VALUE."""
    left: float = 0.0
    """Seconds with this setting."""

    @property
    def group(self) -> str:
        """Name of the table of its setting, else its own name."""
        return self.setting.partition(".")[0] or self.name


def name_parts(work: Work, artifact: Artifact, seconds: Sequence[float]) -> list[PartSeconds]:
    """Return the parts of an artifact. seconds: those of its measures, then of its stages."""
    found = []
    names = [*(m.measurement.measure for m in work.measures), *(s.name for s in work.stages)]
    settings = [_smaller_measure(m.measurement, m.tokens) for m in work.measures]
    for stage in work.stages:
        settings.append(_smaller_stage(artifact, bool(stage.calibration), bool(stage.training)))
    for name, took, (setting, share) in zip(names, seconds, settings, strict=True):
        found.append(PartSeconds(name, took, setting, took * share))
    return found


def _smaller_measure(measurement: Measurement, tokens: int) -> tuple[str, float]:
    """Return a setting with which a measure reads less, and the share that it then reads. No
    setting: "" and 1."""
    kind = registry.load(registry.lookup("measures", measurement.measure))
    table = getattr(getattr(kind, "settings", None), "table", "")
    for field in ("windows", "limit"):
        if not table or not tokens or field not in measurement.config:
            continue
        count = measurement.config[field]
        if not count and field == "windows":
            count = tokens // measurement.config["seqlen"]
        value = max(1, count // REDUCTION) if count else DEFAULT_LIMIT
        left = estimate_tokens(measurement.measure, measurement.config | {field: value})
        return f"{table}.{field}={value}", min(1.0, left / tokens)
    return "", 1.0


def _smaller_stage(artifact: Artifact, calibrates: bool, trains: bool) -> tuple[str, float]:
    """Return a setting with which a stage reads less, and the share that it then reads."""
    if trains and artifact.training:
        return f"training.tokens={artifact.training.tokens // REDUCTION}", 1 / REDUCTION
    if calibrates and artifact.calibration:
        sequences = max(1, artifact.calibration.sequences // REDUCTION)
        return f"calibration.sequences={sequences}", sequences / artifact.calibration.sequences
    return "", 1.0


def describe_total(seconds: float, parts: Iterable[PartSeconds], scale: float = 1.0) -> str:
    """Return the time of all parts together, the largest ones, and the setting that saves most.

    seconds: total, with what no part counts. scale: of the parts' seconds, for example one divided
    by the number of artifacts at a time.
    """
    taken: dict[str, float] = {}
    saved: dict[str, float] = {}
    settings: dict[str, str] = {}
    for part in parts:
        taken[part.group] = taken.get(part.group, 0.0) + scale * part.seconds
        if part.setting:
            saving = scale * (part.seconds - part.left)
            saved[part.group] = saved.get(part.group, 0.0) + saving
            settings.setdefault(part.group, part.setting)
    text = f"about {duration(seconds)} in all"
    least = SHOWN_SHARE * seconds
    largest = sorted(taken, key=lambda name: taken[name], reverse=True)[:2]
    shown = [f"{duration(taken[name])} {name}" for name in largest if taken[name] >= least]
    if shown:
        text += f", of which {' and '.join(shown)}"
    best = max(saved, key=lambda name: saved[name], default="")
    if best and saved[best] >= least:
        shorter = duration(seconds - saved[best])
        text += f"; --set {settings[best]} cuts most, to about {shorter}"
    return text
