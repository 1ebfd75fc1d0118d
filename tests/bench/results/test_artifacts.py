"""The model behind a record, and what to do where it is gone."""

import shlex
from pathlib import Path

import pytest

from bench.results import reproduce
from bench.results.artifacts import find_pruned
from bench.results.store import ReadOnlyStore, Store
from helpers import fake_records
from methods.contract.errors import UserError

RESULTS = Path(__file__).parents[3] / "results/smollm2"


def test_the_command_that_makes_a_lost_model_again_is_one(cache):
    """Of a method after another the last alone is named: it brings the first along."""
    chain = ("sparsegpt", "retrain")
    record = next(r for r in ReadOnlyStore(RESULTS) if r.identity.stages == chain and r.artifact)
    folder = cache / "artifacts" / record.artifact[:32]

    make, _ = reproduce.prune_and_export(record)
    assert shlex.split(make)[:4] == ["bench", "prune", "--method", "retrain"]
    for why in ("it is no longer in the cache", "its last stage changed nothing"):
        with pytest.raises(UserError, match=why) as refused:
            find_pruned(record.key, RESULTS)
        assert make in str(refused.value)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "artifact.json").touch()


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert find_pruned(str(tmp_path), None) == (tmp_path, None)


@pytest.mark.parametrize("artifact", ["../../own", "/own"])
def test_a_record_names_no_folder_outside_the_cache(tmp_path, artifact, cache):
    for folder in ("cache/artifacts", "own"):
        (tmp_path / folder).mkdir()
    (tmp_path / "own" / "config.json").touch()
    record = fake_records.record().model_copy(update={"artifact": artifact})  # which checks nothing
    Store(tmp_path / "results").write(record)
    with pytest.raises(UserError, match="is no record"):
        find_pruned(record.key, tmp_path / "results")
