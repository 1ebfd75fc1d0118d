"""Plug-ins whose import does what no import should: they cost themselves, and nothing that is said of others."""

import json

import pytest

from bench.catalog import plugins
from helpers import runs

GOOD = '''
from dataclasses import dataclass
from typing import ClassVar
from methods import Needs, Walk

@dataclass(frozen=True)
class {name}:
    """Keep the largest |W|."""
    name: ClassVar[str] = "{name}"
    needs: ClassVar[Needs] = Needs.NOTHING
    power: float = 1.0

    def apply(self, model, job):
        walk = Walk(model, job)
        for visit in walk:
            visit.prune(job.pattern.keep(visit.weight.abs() ** self.power))
        return walk.outcome()
'''
HOSTILE = {
    "hangs": ("import time; time.sleep(600)", "not imported within"),
    "hangs_in_c": ("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)", "not imported within"),
    "leaves_a_child": (
        "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)",
        "not imported within",
    ),
    "ends_python": ("import os; os._exit(0)", "importing it ended Python (code 0)"),
    "exits": ("import sys; sys.exit('goodbye')", "SystemExit: goodbye"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
    "crashes": ("import os; os.kill(os.getpid(), 11)", "importing it ended Python on signal 11"),
    "raises": ("raise BaseException('of the base')", "BaseException: of the base"),
    "recurses": ("def f(): f()\nf()", "RecursionError: "),
    "answers_for_others": (
        "import json, sys\n"
        "with open(int(sys.argv[1]), 'w', closefd=False) as out:\n"
        "    print(json.dumps({'target': 'good:good', 'broken': 'says its neighbour'}), file=out)\n"
        "raise ValueError('and fails')",
        "ValueError: and fails",
    ),
    "says_nothing_of_use": ("class says_nothing_of_use: needs = None", "TypeError: "),
    "lies": ("class lies:\n    needs = []\n    __doc__ = 7", "AttributeError: "),
}
NOISY = 'print("[1, 2")\n' + GOOD.format(name="prints")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    sources = {name: source for name, (source, _) in HOSTILE.items()}
    sources |= {"good": GOOD.format(name="good"), "prints": NOISY}
    for name, source in sources.items():
        runs.distribution(folder, name, source, methods={name: f"{name}:{name}"})
    return folder


@pytest.fixture(autouse=True)
def world(site, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "LIST_S", 6.0)
    monkeypatch.setattr(plugins, "USE_S", 6.0)
    yield from runs.world(site, tmp_path, monkeypatch)


def test_each_is_listed_as_broken_and_the_others_as_they_are(cli):
    code, out, err = cli("ls", "methods", "--long", "--json")
    about = {row["name"]: row["about"] for row in json.loads(out)}

    assert code == 0, err
    for name, (_, why) in HOSTILE.items():
        assert about[name].startswith(f"broken: {why}"), about[name]
    assert about["good"] == about["prints"] == "Keep the largest |W|."
    assert about["wanda"]


def test_doctor_names_each(cli, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = cli("doctor", "--json")
    states = {row["thing"]: row["state"] for row in json.loads(out)}

    assert code == 0, err
    assert {states[f"plug-in {name}"] for name in HOSTILE} == {"broken"}
    assert "plug-in good" not in states


def test_a_run_of_others_imports_none(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "describe", lambda *_: pytest.fail("a plug-in was imported"))
    runs.workers_here(monkeypatch)
    flags = ["--methods", "magnitude", "--measures", "size", *runs.flags(tmp_path / "r")]

    assert cli("plan", *flags)[0] == 0
    code, _, err = cli("run", *flags)
    assert code == 0, err


@pytest.mark.parametrize(("waited_s", "most", "state"), [(0, 6, "broken"), (600, 6, ""), (600, 1, "broken")])
def test_waiting_for_a_processor_is_no_hang_within_bounds(monkeypatch, waited_s, most, state):
    """A machine so busy that no import begins within the limit."""
    monkeypatch.setattr(plugins, "_waited_s", lambda _: waited_s)
    monkeypatch.setattr(plugins, "MOST", most if most == 1 else 6000)
    (known,) = plugins.describe(["good:good"], 0.01).values()

    assert ("not imported within" in known.broken) == bool(state)
    assert ("Keep the largest |W|." in known.about) != bool(state)


@pytest.mark.parametrize("name", HOSTILE)
def test_one_asked_for_is_bad_input(name, cli, tmp_path):
    code, _, err = cli("run", "--methods", name, *runs.flags(tmp_path / "r"))

    assert code == 2
    assert len(err.splitlines()) == 1
    assert f"plug-in {name!r} cannot be loaded" in err and HOSTILE[name][1] in err


def test_what_one_prints_is_no_part_of_the_answer(cli, tmp_path):
    flags = ["--methods", "prints:power=2,good", "--measures", "size", *runs.flags(tmp_path / "r")]
    code, out, err = cli("plan", *flags, "--json")

    assert code == 0, err
    assert len(json.loads(out)) == 3


def test_one_that_breaks_when_it_is_used_is_a_sentence(cli, tmp_path, monkeypatch):
    """It was imported well in a process of its own, and is not in this one."""
    source = "import os, sys\nif 'bench.catalog.plugin_probe' not in sys.orig_argv: sys.exit('not here')\n"
    site = tmp_path / "two"
    runs.distribution(site, "two", source + GOOD.format(name="two"), methods={"two": "two:two"})
    runs.put_on_path(site, monkeypatch)
    code, _, err = cli("plan", "--methods", "two:power=2", *runs.flags(tmp_path / "r"))

    assert code == 2
    assert err.startswith("bench: plug-in 'two:two' cannot be used (SystemExit: not here)")
