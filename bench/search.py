"""Search for the best fields of methods. Every trial is an ordinary artifact with a record, and the
records are the state.

Optuna proposes from all trials in the results folder. So a killed search resumes, and several
searches can share a folder. A proposal depends on these trials and the seed only.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import api
from bench.catalog.choice import parse_chain
from bench.execution.listener import RunListener
from bench.planning.plan import make_plan
from bench.planning.search_space import MAX_TRIALS, Range, Search, Value
from bench.planning.spec import Spec
from bench.results.identity import Identity
from bench.results.record import DONE, Record
from bench.results.store import ReadOnlyStore
from bench.system import digests
from bench.system.packages import pip_install, require
from methods.contract.errors import UserError

if TYPE_CHECKING:
    import optuna

RANDOM_TRIALS = 5
"""Number of random trials of each method before the sampler uses a model."""
TRIES = 100
"""Attempts to propose values that no trial has."""


class Trial(NamedTuple):
    """One trial: its fields and its perplexity on the validation split, infinite if training
    diverged."""

    label: str
    fields: dict[str, Value]
    value: float
    record: str
    """Key of its record."""


@dataclass(frozen=True)
class MethodTrials:
    """The trials of one method, oldest first."""

    method: str
    trials: tuple[Trial, ...]
    budget: int

    @property
    def best(self) -> Trial | None:
        finite = [t for t in self.trials if math.isfinite(t.value)]
        return min(finite, key=lambda t: t.value) if finite else None

    @property
    def best_so_far(self) -> list[float]:
        """Return the lowest value after each trial."""
        values = [t.value for t in self.trials]
        return [min(values[: i + 1]) for i in range(len(values))]


class TrialFailed(Exception):
    """A trial without a number. The message has the reason."""


def require_optuna() -> Any:
    """Import Optuna. Raise UserError if it is not installed."""
    require("optuna", what="a search", how=pip_install("search"))
    found = importlib.import_module("optuna")
    found.logging.set_verbosity(found.logging.WARNING)
    return found


def read_trials(spec: Spec, search: Search) -> list[MethodTrials]:
    """Read the trials of each method from the results folder, oldest first."""
    store: Iterable[Record] = ReadOnlyStore(spec.results) if spec.results.is_dir() else ()
    records = sorted(store, key=lambda r: (r.recorded, r.key))
    return [
        MethodTrials(
            method, tuple(_trials(search, method, _identity(spec, method), records)), search.trials
        )
        for method in search.fields
    ]


def _identity(spec: Spec, method: str) -> Identity:
    """Return the identity of the perplexity of a method, without the fields of a trial."""
    stages = tuple(choice.label for choice in parse_chain(method))
    for measurement in make_plan(spec.model_copy(update={"methods": (method,)})).measurements:
        if measurement.measure == "perplexity" and measurement.identity.stages == stages:
            return measurement.identity
    raise UserError(
        f"{spec.models[0]} is not here: pull it first, with bench pull {spec.models[0]}"
    )


def _trials(
    search: Search, method: str, identity: Identity, records: Iterable[Record]
) -> Iterable[Trial]:
    newest: dict[str, Trial] = {}
    for record in records:
        label = record.identity.stages[-1] if record.identity.stages else ""
        stages = (*identity.stages[:-1], label)
        if record.status not in DONE or record.identity != identity.model_copy(
            update={"stages": stages}
        ):
            continue
        fields = search.values(method, label)
        if fields is None:
            continue
        value = next(
            (r.value for r in record.readings if r.metric == "perplexity" and r.value is not None),
            math.inf,
        )
        label = search.label(method, fields)  # a user may have typed 1e-3 for 0.001
        newest[label] = Trial(label, fields, value, record.key)  # records come oldest first
    return newest.values()


def propose(search: Search, done: MethodTrials) -> str | None:
    """Propose the label of the next trial. Return None if every value of its fields was tried."""
    optuna = require_optuna()
    ranges = search.fields[done.method]
    kinds = {key: _distribution(optuna, allowed) for key, allowed in ranges.items()}
    known = {trial.label for trial in done.trials}
    for attempt in range(TRIES):
        seed = int(digests.of([search.seed, done.method, sorted(known), attempt])[:8], 16)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
        study = optuna.create_study(sampler=sampler)
        for trial in done.trials:
            study.add_trial(
                optuna.trial.create_trial(
                    params=trial.fields, distributions=kinds, value=trial.value
                )
            )
        values = {key: ranges[key].rounded(value) for key, value in study.ask(kinds).params.items()}
        label = search.label(done.method, {key: values[key] for key in ranges})
        if label not in known:
            return label
    # The sampler may repeat itself in a small space.
    if math.prod(allowed.size for allowed in ranges.values()) > MAX_TRIALS:
        return None
    space = itertools.product(*(allowed.values for allowed in ranges.values()))
    labels = (search.label(done.method, dict(zip(ranges, values, strict=True))) for values in space)
    return next((label for label in labels if label not in known), None)


def _distribution(optuna: Any, allowed: Range) -> optuna.distributions.BaseDistribution:
    if allowed.choices:
        return optuna.distributions.CategoricalDistribution(allowed.choices)
    if allowed.is_whole:
        return optuna.distributions.IntDistribution(allowed.low, allowed.high, log=allowed.log)
    return optuna.distributions.FloatDistribution(
        float(allowed.low or 0), float(allowed.high or 0), log=allowed.log
    )


def run(
    spec: Spec,
    search: Search,
    listeners: Sequence[RunListener] = (),
    on_trial: Callable[[MethodTrials, int], None] = lambda done, left: None,
) -> list[MethodTrials]:
    """Run the remaining trials, one of each method at a time. Raise TrialFailed if one gives no
    number.

    on_trial: called after each new trial with the trials of its method and the number of trials
    left.
    """
    require_optuna()
    trials = read_trials(spec, search)
    while True:
        proposed = {
            done.method: propose(search, done) for done in trials if len(done.trials) < done.budget
        }
        labels = [label for label in proposed.values() if label]
        if not labels:
            return trials
        summary = api.execute(spec.model_copy(update={"methods": tuple(labels)}), *listeners)
        trials = read_trials(spec, search)
        by_method = {done.method: done for done in trials}
        for method, label in proposed.items():
            if label and label not in {trial.label for trial in by_method[method].trials}:
                reasons = [
                    r.reason
                    for r in summary.records
                    if r.identity.stages[-1] == label and r.status not in DONE
                ]
                why = reasons[0] if reasons else "it was not measured"
                raise TrialFailed(f"{label} gave no perplexity: {why}")
        left = sum(done.budget - len(done.trials) for done in trials)
        for method in (method for method, label in proposed.items() if label):
            on_trial(by_method[method], left)
