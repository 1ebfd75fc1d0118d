"""Licences of the models and data that records were measured with."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files

from bench.inputs import corpora
from bench.inputs.mixtures import shares_of
from bench.inputs.models import find_alias
from bench.inputs.tracks import all_tasks
from bench.results.record import Record


@cache
def _known() -> Mapping[str, Mapping[str, str]]:
    text = files(__package__).joinpath("licences.toml").read_text(encoding="utf-8")
    tasks = {name.rpartition("/")[2]: task.licence for name, task in all_tasks().items()}
    read = tomllib.loads(text)
    return {"models": read["models"], "data": tasks | read["data"]}


def of_model(name: str) -> str:
    """Return the licence of a model by its alias or hub id, "" if it is unknown."""
    alias = find_alias(name)
    hub_id = alias.ref if alias else name
    begins = [one for one in _known()["models"] if hub_id.startswith(one)]
    return _known()["models"][max(begins, key=len)] if begins else ""


def of_data(name: str) -> str:
    """Return the licence of a corpus or task, "" if it is unknown."""
    source = corpora.find(name)
    return _known()["data"].get(name.rpartition("/")[2], source.licence if source else "")


def names_in(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the model and the data of a record, each with its licence, "" if it is unknown."""
    identity = record.identity
    yield identity.model, of_model(identity.model)
    texts: list[str] = []
    for text in (identity.calibration, identity.training):
        texts += shares_of(text.data) if text else []
    config = (record.key_inputs.get("measure") or {}).get("config") or {}
    for name in (*texts, config.get("corpus"), config.get("task")):
        if name:
            yield name, of_data(name)


def of_records(records: Iterable[Record], stated: Mapping[str, str]) -> dict[str, str]:
    """Return the licence of each model and corpus of records by name. stated: what the contributor
    says of the others."""
    found = dict(sorted({pair for record in records for pair in names_in(record)}))
    return {name: licence or stated.get(name, "") for name, licence in found.items()}
