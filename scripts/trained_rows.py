"""Tables of trained rows: how their settings were found, and whether their schedules are equal.

The settings of a row are in its record. A search found them if its folder has a trial of the method
with the same settings. The number of trials is counted there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.catalog.choice import build
from bench.catalog.entries import METHODS
from bench.reporting.searches import read_about
from bench.results.record import Record
from bench.results.store import ReadOnlyStore
from bench.system.text import escape_markdown

RESULTS = Path(__file__).parent.parent / "results"
FORMER = {"floor": "final_lr_ratio", "clip": "grad_clip", "gain": "lambda_scale"}
"""New names of settings in old records."""
FLOOR = "final_lr_ratio"
CONTROLS = ("dense", "dense-ft")
"""The model before pruning, and the dense model after the same training."""
Group = tuple[str, str, tuple[str, ...], tuple[str, ...]]
"""Model, method, its presets, and the stages before it."""


@dataclass(frozen=True)
class TrainedRow:
    """A training: its label, what was trained, and the settings that are not defaults."""

    label: str
    group: Group
    settings: Mapping[str, Any]
    floor: float
    tokens: int
    folder: str
    perplexity: float

    def without_preset(self) -> dict[str, Any]:
        """Return the settings except those that its presets name."""
        presets = METHODS[self.group[1]].presets
        named = {key for preset in self.group[2] for key in presets[preset]}
        return {key: value for key, value in self.settings.items() if key not in named}


def read(records: Iterable[Record], folder: str = "") -> list[TrainedRow]:
    """Return the trained rows among the records, one for each label and training."""
    rows: dict[tuple[str, str, int, int], TrainedRow] = {}
    for record in records:
        training, identity = record.key_inputs.get("training"), record.identity
        if identity.measure != "perplexity" or not training or identity.quantizer != "none":
            continue
        stage, label = record.key_inputs["stages"][-1], identity.stages[-1]
        defaults = build(METHODS[stage["name"]], stage["name"], {})
        config = {FORMER.get(key, key): value for key, value in stage["config"].items()}
        presets = tuple(p for p in label.split(":")[1:] if "=" not in p)
        row = TrainedRow(
            label=identity.method,
            group=(identity.model, stage["name"], presets, identity.stages[:-1]),
            settings={
                key: value for key, value in config.items() if value != getattr(defaults, key)
            },
            floor=config.get(FLOOR, getattr(defaults, FLOOR)),
            tokens=training["tokens"],
            folder=folder,
            perplexity=next((r.value for r in record.readings if r.value is not None), math.inf),
        )
        rows.setdefault((identity.model, row.label, row.tokens, training["batch"]), row)
    return list(rows.values())


def floors(rows: Iterable[TrainedRow]) -> str:
    """Return a sentence if rows of one model end their cosine at different shares of the peak."""
    by_model: dict[str, dict[float, list[str]]] = {}
    for row in rows:
        by_model.setdefault(row.group[0], {}).setdefault(row.floor, []).append(f"`{row.label}`")
    sentences = []
    for model, by_floor in by_model.items():
        if len(by_floor) > 1:
            groups = sorted(by_floor.items())
            each = [f"{floor:g} for {', '.join(sorted(labels))}" for floor, labels in groups]
            sentences.append(
                f"**Not one schedule** ({model}): the cosine of the learning rate ends at these "
                f"shares of its peak: {'; '.join(each)}. Differences between these groups are not "
                "those of the methods alone.\n"
            )
    return "\n".join(sentences)


def settings_table(rows: Iterable[TrainedRow], ratio: Callable[[str, str], str]) -> str:
    """Return a table of the trained rows with their settings, and how they were found.

    ratio: returns the ratio of a method's perplexity to that of a control, as text.
    """
    lines = [
        f"| method | settings | found by | {' | '.join(f'/ {c}' for c in CONTROLS)} |",
        "|---|---|---|---:|---:|",
    ]
    for row in sorted(rows, key=lambda one: one.label):
        typed = [f"`{k.rstrip('_')}={_number(v)}`" for k, v in sorted(row.settings.items())]
        ratios = [ratio(row.label, control) for control in CONTROLS]
        settings = " ".join(typed) or "defaults"
        cells = [escape_markdown(row.label), settings, _found_by(row), *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _found_by(row: TrainedRow) -> str:
    """Return the search that has a trial of a row's settings, or says that none has."""
    model, method, presets, before = row.group
    plain = row.without_preset()
    for trials in map(_trials, ("search", "grid")):
        others = [group for _, group in trials if group[:3] == (model, method, ())]
        for group in (row.group, (model, method, (), before), *others):
            settings = row.settings if group == row.group else plain
            folders = {}
            for (folder, tried), found in trials.items():
                if tried == group and any(_same(trial.settings, settings) for trial in found):
                    folders[folder] = len(found)
            if folders:
                folder = max(folders, key=folders.__getitem__)
                return _describe(row, group, settings, trials[folder, group], folder)
    if set(plain) - {FLOOR}:
        return "set by hand, no search"
    return "the preset, no search" if presets else "defaults of the method, no search"


def _describe(
    row: TrainedRow,
    group: Group,
    settings: Mapping[str, Any],
    trials: list[TrainedRow],
    folder: str,
) -> str:
    place = "the only trial"
    if len(trials) > 1:
        best = min(trials, key=lambda t: t.perplexity)
        rank = "best of" if _same(best.settings, settings) else "one of"
        place = f"{rank} {len(trials)} trials"
    tokens = sorted({t.tokens for t in trials})
    budget = " to ".join(f"{count:,}" for count in dict.fromkeys((tokens[0], tokens[-1])))
    other = " + ".join((*group[3], ":".join((group[1], *group[2]))))
    of = "" if group == row.group else f" of {escape_markdown(other)}"
    return f"{place}{of}, {budget} tokens each (`results/{folder}`)"


@cache
def _trials(kind: str) -> dict[tuple[str, Group], list[TrainedRow]]:
    """Return the trials of every folder of a kind, "search" or "grid", by folder and group."""
    found: dict[tuple[str, Group], list[TrainedRow]] = {}
    for folder in sorted(path for path in RESULTS.iterdir() if (path / "records").is_dir()):
        if read_about(folder).kind == kind:
            for row in read(ReadOnlyStore(folder), folder.name):
                found.setdefault((folder.name, row.group), []).append(row)
    return found


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the settings are equal to three digits, as far as a search rounds."""
    return one.keys() == other.keys() and all(
        _number(one[key]) == _number(other[key]) for key in one
    )


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
