"""Methods and measures of other distributions, found by their entry points; pip is not needed to
pretend one."""

import json

import pytest

from bench import api
from bench.catalog import registry
from bench.catalog.choice import parse_method
from helpers import plugins, runs
from methods.contract.errors import UserError


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    counts = 'return Readings((Reading("tensors", float(len(model().state_dict())), "1", ""),))'
    label = "def protocol(self):\n    return 'own'\n"
    labels = {"counts": "", "labelled": f"@property\n{label}", "unlabelled": label}
    plugins.install(folder, "their_measure", dict.fromkeys(labels, counts), labels, kind="measures")
    ends, fields = {"theirs": "pass", "wanda": "pass"}, {"theirs": "power: float = 1.0"}
    return plugins.install(folder, "their_method", ends, fields)


pytestmark = pytest.mark.usefixtures("world")


def test_run_with_their_method_and_their_measure(tmp_path, output, monkeypatch):
    """From the command line to the table."""
    runs.workers_here(monkeypatch)
    named = ["--methods", "theirs:power=2", "--measures", "counts"]
    out = output("run", *named, *runs.flags(tmp_path / "r", windows=None))
    assert "theirs:power=2" in out and "tensors" in out
    got = runs.records(tmp_path / "r")
    assert {k[0] for k in got} == {"dense", "theirs:power=2"} and len(got) == 4
    assert got["theirs:power=2", None, "counts"].readings[0].value > 0
    assert got["theirs:power=2", None, "pattern"].status == "ok"


def test_their_code_is_part_of_the_key(site, tmp_path):
    spec, file = runs.small(tmp_path / "r", methods=("theirs",)), site / "their_method.py"
    text, found = file.read_text(), []
    for more in ("\nCHANGED = True\n", ""):
        file.write_text(text + more)
        measurements = api.plan(spec).measurements
        found.append({c.key for c in measurements if c.artifact.method == "theirs"})
    assert not found[0] & found[1]


def test_a_measure_whose_protocol_is_no_property_is_refused(tmp_path, cli):
    flags = runs.flags(tmp_path / "r", windows=None)
    assert cli("plan", "--measures", "labelled", *flags)[0] == 0
    code, _, said = cli("plan", "--measures", "unlabelled", *flags)
    assert code == 2 and "protocol is a method: make it a property" in said


def test_an_entry_point_that_is_not_used_is_named(tmp_path, monkeypatch, cli):
    """Its name is built in, or another distribution has it."""
    runs.distribution(tmp_path / "second", "second", "", methods={"theirs": "second:Theirs"})
    runs.put_on_path(tmp_path / "second", monkeypatch)

    whys = dict(registry.ignored("methods"))
    assert whys.keys() == {"wanda", "theirs"} and "the name is built in" in whys["wanda"]
    assert "their_method:Theirs has the name of second:Theirs" in whys["theirs"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = json.loads(cli("doctor", "--json")[1])
    ignored = {r["thing"]: r["detail"] for r in rows if r["state"] == "ignored"}
    assert ignored == {f"plug-in {name}": why for name, why in whys.items()}

    def stop(spec):
        raise UserError("enough")

    monkeypatch.setattr("bench.api.execute", stop)
    note = f"bench: plug-in wanda is ignored: {whys['wanda']}"
    for method, notes in (("wanda", [note]), ("magnitude", [])):
        err = cli("run", "--methods", method, *runs.flags(tmp_path / "r"))[2]
        assert err.splitlines() == [*notes, "bench: enough"]


LOOSE = """
from dataclasses import dataclass
from methods import Needs


@dataclass
class Loose:
    needs = Needs.NOTHING


@dataclass(frozen=True)
class Idle:
    needs = Needs.NOTHING


@dataclass(frozen=True)
class Narrow:
    needs = Needs.NOTHING

    def apply(self, model):
        return model


@dataclass(frozen=True)
class Asking:
    power: float

    def apply(self, model, job):
        return model
"""


UNUSABLE = {
    "loose": "loose cannot be used: unusable:Loose must be a frozen dataclass",
    "idle": r"unusable:Idle must have a method apply\(self, model, job\)",
    "narrow": r"unusable:Narrow must have a method apply\(self, model, job\)",
    "asking": "asking needs power: type asking:power=VALUE",
}


@pytest.mark.parametrize(("typed", "said"), UNUSABLE.items())
def test_a_class_that_no_worker_could_run_is_refused_when_it_is_typed(
    tmp_path, monkeypatch, typed, said
):
    names = {name: f"unusable:{name.capitalize()}" for name in UNUSABLE}
    runs.distribution(tmp_path / "other", "unusable", LOOSE, methods=names)
    runs.put_on_path(tmp_path / "other", monkeypatch)
    with pytest.raises(UserError, match=said):
        parse_method(typed)
    assert parse_method("wanda").config == {}


def test_a_service_whose_part_was_deleted_is_named_with_a_way_out():
    with pytest.raises(UserError, match=r"^nothing here provides 'nobody': restore .*bench/parts/"):
        registry.lookup("services", "nobody")
