"""Plug-ins whose import does what no import should."""

import json
import sys

import pytest

from bench.results.store import ReadOnlyStore
from helpers import plugins, runs

HOSTILE = {
    "exits": ("import sys; sys.exit('goodbye')", "SystemExit: goodbye"),
    "raises": ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    "misspells": (
        "\n\n\nprint(pie)",
        "NameError: name 'pie' is not defined, misspells.py line 4): ",
    ),
}
DEADLY = {"hangs": "import time; time.sleep(600)", "ends_python": "import os; os._exit(0)"}
POWER = "power: float = 1.0"
ABOUT = "Prune by magnitude, and then do what a test is about"
CODEC = """
import torch
from methods import GridCodec, Storage, StoredWeight


@dataclass(frozen=True)
class Own:
    name: ClassVar[str] = "own"
    bits: ClassVar[dict] = {}

    def decode(self, parts):
        return 2 * parts["values"]


def linears(model, job):
    return {target: model.get_submodule(target).weight for target in job.targets}
"""
LIARS = {
    "claims": """
codec = GridCodec("integer", 8, 8)
for weight in linears(model, job).values():
    weight.copy_(codec.decode(codec.encode(weight)))
weights = sum(weight.numel() for weight in linears(model, job).values())
return walk.outcome()._replace(storage=Storage(weights=weights, values=weights // 8))
""",
    "differs": """
stored = {t: StoredWeight(Own(), {"values": w.clone()}) for t, w in linears(model, job).items()}
return walk.outcome()._replace(stored=stored)
""",
}
"""Quantizers that claim 1 bit, or store other weights."""


def install(folder, sources, monkeypatch):
    for name, source in sources.items():
        runs.distribution(folder, name, source, methods={name: f"{name}:{name}"})
        monkeypatch.delitem(sys.modules, name, raising=False)
    runs.put_on_path(folder, monkeypatch)


@pytest.fixture
def site(tmp_path, monkeypatch):
    sources = {name: source for name, (source, _) in HOSTILE.items()}
    for name, said in (("good", ""), ("prints", 'print("[1, 2")')):
        plugins.install(tmp_path / "site", name, {name: "pass"}, {name: POWER}, said)
    install(tmp_path / "site", sources, monkeypatch)
    yield from runs.world(tmp_path / "site", tmp_path, monkeypatch)


@pytest.mark.usefixtures("site")
def test_each_is_listed_as_broken_and_the_others_as_they_are(cli):
    code, out, err = cli("ls", "methods", "--long", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    about = {name: row["about"] for name, row in rows.items()}

    assert code == 0, err
    assert rows["good"]["fields"] == "power=1.0"
    for name, (_, why) in HOSTILE.items():
        sentence = f"broken: plug-in '{name}' cannot be used ({why}"
        assert about[name].startswith(sentence), about[name]
    assert about["good"] == about["prints"] == ABOUT
    assert about["wanda"]


@pytest.mark.usefixtures("site")
def test_doctor_names_each(cli, monkeypatch):
    answer = {"thing": "hub", "state": "ok", "detail": ""}
    monkeypatch.setattr("bench.cli.doctor._network", lambda: answer)
    code, out, err = cli("doctor", "--json")
    states = {row["thing"]: row["state"] for row in json.loads(out)}
    assert code == 0, err
    assert {states[f"plug-in {name}"] for name in HOSTILE} == {"broken"}
    assert states["plug-in good"] == "ok"


def test_malformed_entry_points_name_their_package(refused, tmp_path, monkeypatch):
    install(tmp_path / "site", {"torn": ""}, monkeypatch)
    (tmp_path / "site/torn-1.0.dist-info/entry_points.txt").write_text("[a]\nno value\n")
    assert "the entry points of the package torn cannot be read" in refused("ls", "methods")


@pytest.mark.usefixtures("site")
def test_one_that_is_named_is_bad_input(refused, tmp_path):
    assert refused("run", "--methods", "exits", *runs.flags(tmp_path / "r")) == (
        "bench: plug-in 'exits' cannot be used (SystemExit: goodbye, exits.py line 1): repair or "
        "uninstall it"
    )


def test_a_run_of_others_imports_none(cli, output, tmp_path, monkeypatch):
    """Not even to suggest a name."""
    install(tmp_path / "deadly", DEADLY, monkeypatch)
    runs.workers_here(monkeypatch)
    flags = ["--methods", "magnitude", "--measures", "size"]
    flags += runs.flags(tmp_path / "r", windows=None)
    output("run", *flags)
    assert cli("plan", *flags, "--methods", "hang")[0] == 2
    assert not DEADLY.keys() & sys.modules.keys()


@pytest.mark.full
def test_bits_that_nobody_counted_are_marked_and_other_weights_are_refused(tmp_path, monkeypatch):
    plugins.install(tmp_path / "site", "liars", LIARS, preamble=CODEC, kind="quantizers")
    runs.distribution(tmp_path / "site", "own", "", codecs={"own": "liars:Own"})
    runs.put_on_path(tmp_path / "site", monkeypatch)
    runs.own_cache(tmp_path, monkeypatch)
    spec = runs.small(tmp_path / "r", quantizers=tuple(LIARS), measures=("size",))
    runs.run_here(spec, only=["magnitude"])
    records = [r for r in ReadOnlyStore(spec.results) if r.identity.measure == "size"]
    sizes = {record.identity.quantizer.partition(":")[0]: record for record in records}

    assert [sizes[name].status for name in LIARS] == ["ok", "failed"]
    assert sizes["claims"].notes["claimed"] == "claims"
    assert "proj give another weight than the one that is measured" in sizes["differs"].reason
