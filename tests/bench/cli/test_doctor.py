"""What doctor says of folders that cannot be written, and of extras."""

import json

import pytest

from bench.cli import doctor
from helpers import plugins, runs


@pytest.fixture
def state_of(tmp_path, monkeypatch, cli):
    """state_of(thing, *arguments) -> its state and detail. No network is asked."""
    runs.own_cache(tmp_path, monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "file").touch()

    def call(thing, *arguments):
        rows = {row["thing"]: row for row in json.loads(cli("doctor", "--json", *arguments)[1])}
        return rows[thing]["state"], rows[thing]["detail"]

    return call


@pytest.mark.parametrize("place", ["file/cache", "of another user/cache"])
def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch, state_of, place):
    """Below a file, and in a folder of another user: root may write everywhere."""
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / place))
    if "another" in place:
        monkeypatch.setattr("os.access", lambda path, *_, **__: path != tmp_path)

    said = f"{tmp_path / place}: name a new folder in $CAST_BENCH_CACHE"
    assert state_of("disk") == ("unwritable", said)


def test_results_that_cannot_be_made(tmp_path, state_of):
    state, detail = state_of("results", "--results", tmp_path / "file/results")
    assert state == "unwritable" and detail.endswith("results: name another folder with --results")


def test_the_hub_is_not_asked_offline(state_of, monkeypatch):
    ask = lambda *_, **__: pytest.fail("the network was asked")  # noqa: E731
    monkeypatch.setattr("socket.create_connection", ask)

    assert state_of("hub")[0] == "off"


@pytest.mark.parametrize(
    ("packages", "state", "to_install"),
    [
        ({"onnx": True}, "ok", None),
        ({"onnx": True, "onnxscript": False}, "incomplete", "onnxscript"),
        ({"onnx": False}, "absent", "onnx"),
    ],
)
def test_extras(monkeypatch, state_of, packages, state, to_install):
    monkeypatch.setattr(doctor.packages, "extras", lambda: {"onnx": packages})
    way = f"to install {to_install}: pip install 'cast-bench[onnx]'" if to_install else ""
    assert state_of("extra onnx") == (state, way)


def test_plug_ins(tmp_path, monkeypatch, state_of):
    plugins.install(tmp_path / "a", "own_method", {"theirs": "pass"})
    runs.distribution(tmp_path / "b", "faulty", "1 / 0", measures={"counts": "faulty:Counts"})
    for folder in ("a", "b"):
        runs.put_on_path(tmp_path / folder, monkeypatch)

    assert state_of("plug-in theirs") == ("ok", "own_method:Theirs")
    assert state_of("plug-in counts")[0] == "broken"
    monkeypatch.undo()
    runs.forget()
