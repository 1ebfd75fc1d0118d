"""Methods, quantizers and measures in a file that the user names."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import bench
from bench import api
from bench.catalog import named_files, registry
from bench.planning.artifact import Stage
from bench.results import reproduce
from bench.results.store import ReadOnlyStore
from helpers import runs
from methods.contract.errors import UserError

METHOD = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from methods import Needs, Outcome, Walk


@dataclass(frozen=True)
class RowNorm:
    name: ClassVar[str] = "row_norm"
    needs: ClassVar[Needs] = Needs.NOTHING
    power: float = 1.0

    def apply(self, model, job):
        walk = Walk(model, job)
        for visit in walk:
            visit.prune(job.pattern.keep(visit.weight.abs()))
        return walk.outcome()


@dataclass(frozen=True)
class Second(RowNorm):
    name: ClassVar[str] = "second"
"""
QUANTIZER = """
from dataclasses import dataclass
from typing import ClassVar
from methods import Needs, Walk


@dataclass(frozen=True)
class Halves:
    name: ClassVar[str] = "halves"
    bits: ClassVar[dict] = {}

    def decode(self, parts):
        return parts["values"].float()


@dataclass(frozen=True)
class ToHalf:
    name: ClassVar[str] = "to_half"
    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model, job):
        walk = Walk(model, job)
        for visit in walk:
            visit.store(Halves(), {"values": visit.weight.half()})
        return walk.outcome()
"""
MEASURE = """
from dataclasses import dataclass
from typing import ClassVar
from bench.measures.contract import Readings
from bench.results.record import Reading
from methods import Needs


@dataclass(frozen=True)
class Count:
    name: ClassVar[str] = "count"
    needs: ClassVar[Needs] = Needs.NOTHING
    protocol: ClassVar[str] = "weights"

    def read(self, model, context):
        return Readings((Reading("tensors", float(len(model().state_dict())), "1", ""),))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, world):
    """A working directory with a file of each kind, and a catalog that knows none of them before
    and after."""
    for kind in registry.SECTIONS:
        monkeypatch.setitem(registry._NAMED, kind, {})
    (tmp_path / "sub").mkdir()
    for name, text in {"my": METHOD, "sub/my": METHOD, "half": QUANTIZER, "count": MEASURE}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(**named):
    return api.plan(runs.small("r", **named)).measurements


@pytest.mark.full
def test_worker_processes_find_the_classes_of_files(output):
    named = ["--methods", "my.py:power=0.5", "--measures", "count.py"]
    out = output("run", *named, *runs.flags("r", "half.py", windows=None))
    assert "row_norm:power=0.5" in out and "tensors" in out
    found = runs.records("r")
    assert found["row_norm:power=0.5", None, "pattern"].notes["stored"]["form"] == "halves"
    record = found["row_norm:power=0.5", None, "count"]
    files = ["my.py:RowNorm", "half.py:ToHalf", "count.py:Count"]
    assert [one["file"] for one in record.plugins] == files
    again = "--methods {}:power=0.5 --pattern 2:4 --quant {}:embed=int8 --measures {}".format(
        *files
    )
    assert again in reproduce.command([record])


def test_a_file_is_part_of_the_key_and_its_path_is_not(folder):
    def keys(path):
        return {m.key for m in planned(methods=(path,)) if m.artifact.method == "row_norm"}

    before = keys("my.py")
    assert before == keys("sub/my.py")
    (folder / "my.py").write_text("# a comment\n" + METHOD.replace(".abs()", ".abs() ** 2"))
    assert before.isdisjoint(keys("my.py"))


def test_chains_name_a_file():
    def chains(*methods):
        return {m.artifact.method for m in planned(methods=methods)}

    found = chains("recon:from=my.py/power=2", "wanda:from=my.py/Second")
    assert found == {"dense", "row_norm:power=2 + recon", "second + wanda"}
    found = chains("recon:from=row_norm", "sub/my.py", "wanda:from=second", "sub/my.py:Second")
    assert found == {"dense", "second + wanda", "row_norm + recon", "row_norm", "second"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("none.py", "cannot be read (No such file"),
        ("my.py:Third", "unknown class of my.py 'Third': known: RowNorm, Second"),
        ("half.py:Halves", "Halves of half.py is no method"),
        ("count.py", "count.py defines no method"),
        ("recon:from=sub/my.py", "unknown method 'sub'"),
        ("my.py,sub/my.py", "both have the name 'row_norm'"),
        ("taken.py", "the name 'wanda', which is taken"),
        ("raises.py", "(ZeroDivisionError: division by zero, raises.py line 1): repair it"),
        ("syntax.py", "cannot be used (SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(folder, cli, text, sentence):
    (folder / "taken.py").write_text(METHOD.replace('"row_norm"', '"wanda"'))
    (folder / "raises.py").write_text("1 / 0")
    (folder / "syntax.py").write_text("(")
    code, _, said = cli("plan", "--methods", text, *runs.flags("r"))
    assert code == 2 and sentence in said and said.count("\n") == 1


def test_records_import_no_file(folder):
    """Settings of a record name no code, so no file runs."""
    (folder / "evil.py").write_text("open('ran', 'w')")
    first = planned(methods=("magnitude",))[-1]
    inputs = first.key_inputs()
    for stages in (("evil.py",), (f"{folder}/evil.py:Evil",), ("wanda:from=evil.py",)):
        about = {"key_inputs": inputs, "short_key": "0", "notes": {}, "plugins": []}
        identity = first.identity.model_copy(update={"stages": stages})
        record = SimpleNamespace(identity=identity, **about)
        with pytest.raises(UserError, match="may not name code"):
            reproduce.settings(record)
    assert not (folder / "ran").exists()


def test_classes_and_instances_from_python(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my", raising=False)
    from my import RowNorm

    from baselines.wanda import Wanda

    found = planned(methods=[RowNorm, RowNorm(power=0.5), Wanda, "magnitude"])
    wanted = {"dense", "row_norm", "row_norm:power=0.5", "wanda", "magnitude"}
    assert {m.artifact.method for m in found} == wanted
    monkeypatch.setattr(RowNorm, "__module__", "__main__")
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace())
    with pytest.raises(UserError, match=r"class RowNorm is not at the top of a file"):
        bench.Spec(methods=[RowNorm])


def test_a_stage_tells_a_worker_where_its_file_is(folder):
    artifacts = [m.artifact for m in planned(methods=("my.py",))]
    stage = next(artifact.pruner for artifact in artifacts if artifact.method == "row_norm")
    registry._NAMED["methods"].clear()
    again = Stage.model_validate_json(stage.model_dump_json())
    assert again.entry.target == f"{folder}/my.py:RowNorm"


def test_a_file_that_names_itself_is_refused(folder):
    own = "\nimport bench\nbench.plan(bench.Spec(methods=[RowNorm]))\n"
    (folder / "loop.py").write_text(METHOD + own)
    with pytest.raises(UserError, match=r"loop.py. cannot be used .RecursionError"):
        named_files.with_names("methods", ["loop.py"])


COPIES = """
from dataclasses import dataclass
from typing import ClassVar
from methods import Needs, Walk


@dataclass(frozen=True)
class Copies:
    \"\"\"Changes copies of the weights.\"\"\"

    name: ClassVar[str] = "copies"
    needs: ClassVar[Needs] = Needs.NOTHING
    power: float = 1.0

    def apply(self, model, job):
        walk = Walk(model, job)
        for visit in walk:
            weight = visit.weight.clone()
            weight[~job.pattern.keep(weight.abs())] = 0
        return walk.outcome()
"""


def test_work_on_a_copy_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(COPIES)
    runs.run_here(runs.small("r", methods=("my.py",), measures=("size",), quantizers=("none",)))

    reasons = {
        record.reason for record in ReadOnlyStore(Path("r")).listed() if record.status == "failed"
    }
    assert len(reasons) == 1
    assert "no weight changed: write into visit.weight or call visit.prune" in reasons.pop()


@pytest.mark.full
def test_a_field_without_bounds_is_told_once(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(COPIES)
    chosen = ("--methods", "my.py,my.py:power=2", "--measures", "size")
    _, _, err = cli("run", *chosen, *runs.flags("r", windows=None))
    assert err.count("power may be any number") == 1
