"""The documented Python API, whatever was imported before them."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import bench
import methods
from bench import api, results_api
from helpers import reports
from methods.contract.errors import UserError


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nobody"):
        _ = bench.nobody


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"unknown": 1}, "unknown setting 'unknown'"),
        ({"model": "tiny"}, "unknown setting 'model': did you mean models"),
        ({"perplexity": {"seqle": 1}}, "did you mean perplexity.seqlen"),
        ({"seeds": "a"}, "invalid seeds=a: must be a whole number"),
    ],
)
def test_a_spec_refuses_in_one_sentence_of_ours(settings, sentence):
    with pytest.raises(UserError) as refused:
        bench.Spec(**settings)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parts("packed24")
def test_public_names_are_there_and_come_from_the_api():
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    public = settings["tool"]["cast-bench"]["public"]

    for name in public:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute) is not None, name
    found = {n for n in public if n.startswith("methods.")}
    assert found == {f"methods.{n}" for n in methods.__all__}
    got = {n for n in public if n.startswith("bench.") and n.count(".") == 1}
    assert got == {f"bench.{n}" for n in bench.__all__}
    of_results = ("figure", "pick", "table")
    assert all(getattr(bench, name) is getattr(results_api, name) for name in of_results)
    # a package that can be called, and a reader
    own = set(bench.__all__) - {"compare", "load", *of_results}
    assert all(getattr(bench, name) is getattr(api, name) for name in own)


def test_results_from_python_are_those_of_the_commands(tmp_path, known_noise):
    root = reports.compressed(tmp_path / "r")

    compared = bench.compare("good", "poor", root)
    assert compared.set_index("metric").loc["perplexity", "verdict"] == "REGRESSION"
    assert bench.pick("tiny", root, max_loss="5%")["row"].tolist() == ["dense int8"]
    assert bench.table(root, columns=("row", "verdict")).columns.tolist() == ["row", "verdict"]
    figure = bench.figure("good", "poor", "unsized", out=tmp_path / "three.svg", results=root)
    assert "unsized" in figure.read_text() and "poor" in figure.read_text()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_listener_keeps_the_display_on_a_terminal(tmp_path, world, monkeypatch, is_terminal):
    heard = []
    monkeypatch.setattr(
        api.runner, "execute", lambda plan, store, listeners: heard.extend(listeners)
    )
    monkeypatch.setattr(api.sys.stderr, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(api.progress, "display_for", lambda stream: "display")
    mine = bench.RunListener()
    api.execute(bench.Spec(methods=["magnitude"], measures=["size"], results=tmp_path / "r"), mine)
    assert heard == (["display", mine] if is_terminal else [mine])
