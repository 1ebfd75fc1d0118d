"""A search: equal numbers of trials, each a record; one that was stopped goes on; what it proposes
follows from records."""

import math
import sys
from collections import Counter

import pytest
import tomlkit

from bench import search as searching
from bench.execution.runner import Summary
from bench.planning.search_space import read_search
from bench.results.store import ReadOnlyStore, Store
from helpers import runs
from methods.contract.errors import UserError

pytest.importorskip("optuna")


def values(trials=4):
    fields = {
        "ria": {"power": {"low": 0.1, "high": 2.0}},
        "sparsegpt:mask-only": {"damping": {"low": 1e-3, "high": 0.5, "log": True}},
    }
    return {
        "models": ["tiny"],
        "threads": 1,
        "device": "cpu",
        "perplexity": {"data": "wiki-mini", "split": "validation", "seqlen": 32, "windows": 2},
        "calibration": {"sequences": 2, "seqlen": 32},
        "search": {"trials": trials, "fields": fields},
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    """here(trials) -> spec and search of a run whose workers are this process."""
    runs.own_cache(tmp_path, monkeypatch)
    runs.workers_here(monkeypatch)
    return lambda trials=4: read_search(values(trials) | {"results": tmp_path / "results"})


def labels(done):
    return [[trial.label for trial in one.trials] for one in done]


@pytest.mark.full
def test_every_method_gets_its_trials_and_each_is_a_record(here):
    spec, search = here(2)
    seen = []

    done = searching.run(
        spec, search, on_trial=lambda one, left: seen.append((one.method, len(one.trials), left))
    )

    assert seen == [(method, count, 4 - 2 * count) for count in (1, 2) for method in search.fields]
    keys = {record.key for record in ReadOnlyStore(spec.results)}
    for one in done:
        assert len({trial.label for trial in one.trials}) == 2
        assert {trial.record for trial in one.trials} <= keys
        assert one.best.value == min(trial.value for trial in one.trials) == one.best_so_far[-1]
        assert one.best_so_far == sorted(one.best_so_far, reverse=True)
    again = searching.run(spec, search, on_trial=lambda one, left: pytest.fail("it was done"))
    assert labels(again) == labels(done)


@pytest.mark.slow
def test_a_killed_search_goes_on_as_it_would_have(here, monkeypatch, tmp_path):
    """Also in the middle of a round, when one method has its trial and the next has not."""
    spec, search = here(3)
    execute = searching.api.execute

    class Killed(Exception):
        pass

    calls = []

    def killed(spec, *listeners):
        calls.append(spec.methods)
        if len(calls) == 2:
            execute(spec.model_copy(update={"methods": spec.methods[:1]}), *listeners)
            raise Killed
        return execute(spec, *listeners)

    monkeypatch.setattr(searching.api, "execute", killed)
    with pytest.raises(Killed):
        searching.run(spec, search)
    assert [len(one.trials) for one in searching.read_trials(spec, search)] == [2, 1]

    monkeypatch.setattr(searching.api, "execute", execute)
    resumed = searching.run(spec, search)

    undisturbed = spec.model_copy(update={"results": tmp_path / "undisturbed"})
    # two records of one second come in the order of their keys
    found = list(map(sorted, labels(searching.run(undisturbed, search))))
    assert found == list(map(sorted, labels(resumed)))


def test_a_trial_that_was_typed_in_another_way_is_known_by_its_values(here):
    spec, search = here(2)
    runs.run_here(
        spec.model_copy(update={"methods": ("ria:power=5e-1",)}), only=("ria:power=5e-1",)
    )

    (trial,) = searching.read_trials(spec, search)[0].trials
    assert (trial.label, trial.fields) == ("ria:power=0.5", {"power": 0.5})


@pytest.mark.full
def test_trials_of_others_count(here):
    """Whoever ran them, as long as they are of this search: same text, split, seed and fields."""
    spec, search = here(2)
    extra = ("ria:power=0.7", "ria:power=7.0", "sparsegpt:damping=0.1", "ria")
    searching.api.execute(spec.model_copy(update={"methods": extra}))

    assert labels(searching.read_trials(spec, search)) == [["ria:power=0.7"], []]
    other = spec.model_copy(update={"seeds": (1,)})
    assert labels(searching.read_trials(other, search)) == [[], []]


def test_a_trial_without_a_number_ends_the_search(here, monkeypatch):
    empty = lambda spec, *listeners: Summary([], Counter(), [])  # noqa: E731
    monkeypatch.setattr(searching.api, "execute", empty)

    with pytest.raises(searching.TrialFailed, match=r"ria:power=.* gave no perplexity"):
        searching.run(*here(1))


def test_every_value_of_a_finite_space_is_proposed(monkeypatch):
    """Also if the sampler repeats itself in every attempt."""
    monkeypatch.setattr(searching, "TRIES", 1)
    fields = {"sparsegpt": {"block": {"choices": [32, 64]}, "damping": {"choices": [0.01, 0.1]}}}
    _, search = read_search(values() | {"search": {"trials": 4, "fields": fields}})
    trials = []
    while label := searching.propose(search, searching.MethodTrials("sparsegpt", tuple(trials), 4)):
        trials.append(searching.Trial(label, search.values("sparsegpt", label), 1.0, ""))

    assert len({trial.label for trial in trials}) == len(trials) == 4


def test_without_optuna_it_says_what_to_install(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)

    with pytest.raises(UserError, match=r"needs the package optuna: pip install 'cast-bench\[sear"):
        searching.run(*here())


def test_divergence_is_a_trial_of_no_value():
    trials = [
        searching.Trial(f"cast:lr={v}", {"lr": v}, 1 / (v - 9) ** 2 if v < 9 else math.inf, "")
        for v in (8.0, 9.0, 7.0)
    ]
    done = searching.MethodTrials("cast", tuple(trials), 5)
    _, search = read_search(
        values() | {"search": {"trials": 5, "fields": {"cast": {"lr": {"low": 1.0, "high": 9.0}}}}}
    )

    assert done.best.label == "cast:lr=7.0" and done.best_so_far == [1.0, 1.0, 0.25]
    assert searching.propose(search, done).startswith("cast:lr=")


def test_the_command_prints_the_best_and_draws_the_curve(here, cli, tmp_path):
    here()
    settings = values(2)
    del settings["search"]["fields"]["sparsegpt:mask-only"]
    file = tmp_path / "search.toml"
    file.write_text(tomlkit.dumps(settings))

    code, out, err = cli(
        "search", file, "--results", tmp_path / "results", "--out", tmp_path / "s.svg"
    )

    assert code == 0
    assert "2 of 2 trials of ria: ria:power=" in err
    assert "ria:power=" in out and str(tmp_path / "s.svg") in out
    assert (tmp_path / "s.svg").read_text().startswith("<svg")


@pytest.mark.full
def test_the_newest_record_of_a_trial_counts(here):
    """Its code may have changed since."""
    spec, search = here(1)
    searching.api.execute(spec.model_copy(update={"methods": ("ria:power=0.7",)}))
    store = Store(spec.results)
    (record,) = [
        r
        for r in store
        if r.identity.method.startswith("ria") and r.identity.measure == "perplexity"
    ]
    record.key, record.provenance["recorded"] = "f" * 64, "2999-01-01T00:00:00Z"
    record.readings[0].value = 12.5
    store.write(record)

    assert searching.read_trials(spec, search)[0].best.value == 12.5
