"""A harness of another package, that of docs/examples."""

import json

import pytest

from bench.parts.harnesses.elsewhere import HarnessResults
from helpers import plugins, runs


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    plugins.install_examples(tmp_path / "site")
    yield from runs.world(tmp_path / "site", tmp_path, monkeypatch)


def test_a_harness(tmp_path, output):
    for name, scores in (("before", [1, 1, 0, 1]), ("after", [1, 0, 0, 0])):
        (tmp_path / name).mkdir()
        answers = {f"question {i}": score for i, score in enumerate(scores)}
        (tmp_path / name / "sums.scores.json").write_text(json.dumps(answers))
    before, after, _ = HarnessResults().pair(tmp_path / "before", tmp_path / "after")
    assert [side.records[0].readings[0].value for side in (before, after)] == [0.75, 0.25]
    compared = output("compare", tmp_path / "before", tmp_path / "after", "--json")
    assert json.loads(compared)["rows"][0]["metric"] == "score"


def test_a_harness_that_fails_is_named(tmp_path, refused):
    (tmp_path / "before").mkdir()
    (tmp_path / "before/sums.scores.json").write_text("[]")
    said = refused("import", tmp_path / "before", "--model", "tiny", "--results", tmp_path / "r")
    assert "plug-in 'scores:Scores' cannot be used (AttributeError" in said
