"""Parts that carry packages and models to a card without a network, and stages without a card."""

import importlib.util
import io
import itertools
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.catalog.parts import found_parts
from helpers import fake_records

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cuda.py"
FILES = {"wheels/a.whl": b"wheel", "cache/model": os.urandom(300_000), "cache/empty": b""}
SIZE = 100_000


@pytest.fixture(scope="module")
def cuda():
    # NVIDIA's package `cuda`, which newer versions of torch import, has the same name.
    spec = importlib.util.spec_from_file_location("cuda_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pack(tmp_path, cuda):
    """pack(files) -> the folder of an archive's parts."""

    def make(files):
        with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        (tmp_path / "parts").mkdir()
        cuda.split(tmp_path / "archive.tar.gz", tmp_path / "parts", SIZE)
        return tmp_path / "parts"

    return make


def test_what_is_unpacked_is_what_was_packed(pack, cuda, tmp_path):
    folder, there = pack(FILES), tmp_path / "there"
    sizes = [p.stat().st_size for p in folder.iterdir()]
    cuda.unpack(folder, there)

    assert len(sizes) > 3 and max(sizes) <= SIZE
    found = [path for path in there.rglob("*") if path.is_file()]
    assert {str(path.relative_to(there)): path.read_bytes() for path in found} == FILES


@pytest.mark.parametrize("damage", ["first", "middle", "last", "byte", "none"])
def test_damaged_parts_are_a_sentence_and_leave_nothing(pack, cuda, tmp_path, damage):
    folder = pack(FILES)
    found = sorted(folder.iterdir())
    if damage == "byte":
        content = bytearray(found[1].read_bytes())
        content[5000] ^= 1
        found[1].write_bytes(content)
    gone = {"first": found[:1], "middle": found[2:3], "last": found[-1:], "none": found}
    for path in gone.get(damage, ()):
        path.unlink()
    with pytest.raises(ValueError, match=r"missing or damaged|no part"):
        cuda.unpack(folder, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_part_cannot_write_elsewhere(pack, cuda, tmp_path):
    folder = pack({"../taken": b""})
    with pytest.raises(ValueError, match="damaged"):
        cuda.unpack(folder, tmp_path / "there")
    assert not (tmp_path / "taken").exists()


def run(*words, bare=()):
    """Run the program. It imports from its own folder, which tox leaves out for the tests."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    words = [sys.executable, *bare, SCRIPT, *words]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_needs_of_a_python_without_packages():
    """No package is imported before it is said to lack. torch is not among the parts."""
    done = run("--needs", bare=["-S"])  # with nothing but the standard library
    assert done.returncode == 1, done.stderr
    lacking = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert "--from DIR" in lacking["package pytest>=8.3"]
    assert "CUDA driver; --pack leaves it out" in lacking["package torch>=2.9"]


@pytest.mark.skipif("speed" not in found_parts(), reason="the part speed is not there")
@pytest.mark.parametrize("model", [pytest.param(None, marks=pytest.mark.slow), "llama2-7b"])
def test_every_command_is_one_that_the_program_takes(cuda, tmp_path, cli, model):
    """What checks a command on any machine: a wrong flag or setting is an exit code of 2."""
    rig = cuda.Rig(tmp_path, model=model or cuda.MODEL)
    checked = set()
    for stage in cuda.STAGES if model is None else cuda.OWN:
        for command in cuda.commands(stage, rig):
            words = cuda.checked(command, "h100")[3:]
            if "pytest" not in command:
                assert not {"run", "cuda"} & {*words}
                checked.add(words[0])
                code, _, err = cli(*words)
                assert code == 0 or "not downloaded yet" in err, err
    assert checked == {"plan", "speed"}


def test_a_dry_stage_computes_nothing_and_is_not_done(cuda, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cuda, "call", lambda command, *more: asked.append(command) or 0)
    assert cuda.run([*cuda.STAGES], cuda.Rig(tmp_path, is_dry=True), float("inf")) == 0
    assert len(asked) > len(cuda.STAGES)
    for command in asked:
        assert {"plan", "--device-spec", "--collect-only"} & set(command)
    assert not [*tmp_path.glob("*.done")]


def test_stages_are_those_of_the_half_hour_or_were_asked_for(cuda):
    first, more = (cuda.choose(words, cuda.MODEL, False) for words in (None, "more"))

    assert sum(cuda.STAGES[name].minutes for name in first) <= 30
    assert {*first, *more} == {*cuda.STAGES} and max(s.minutes for s in cuda.STAGES.values()) < 9
    assert cuda.choose(None, "llama2-7b", False) == [*cuda.OWN]
    assert cuda.choose("decode", cuda.MODEL, False) == ["decode"]


def test_another_model_takes_the_place_of_ours(cuda, tmp_path):
    rig = cuda.Rig(tmp_path, model="llama2-7b")
    made = {name: cuda.commands(name, rig) for name in cuda.OWN}
    every = itertools.chain.from_iterable(made.values())
    models = {command[command.index("--model") + 1] for command in every}
    assert models == {"tiny", "llama2-7b"}
    kinds = [command[command.index("--kinds") + 1] for command in made["shapes"]]
    assert kinds == ["bf16", "fp8"]


def test_a_model_of_yours_is_planned_on_a_card(cuda, tmp_path):
    rig = cuda.Rig(tmp_path, model="llama2-7b")
    (quality,) = cuda.commands("quality", rig)
    planned = cuda.checked(quality, "a100")
    assert planned[3] == "plan" and {"llama2-7b", "a100"} < {*planned}
    assert len(planned) == len(quality)
    assert rig.about("quality").startswith("quality: as planned: ")
    assert "llama2-7b" in rig.about("shapes") and rig.minutes("shapes") == 6


def test_what_the_other_machine_has_is_left_out(cuda, tmp_path):
    (tmp_path / "there.txt").write_text(f"NumPy=={version('numpy')}\npandas==0.1\n-e somewhere\n")
    there = cuda.read_freeze(tmp_path / "there.txt")
    whole, rest = ({text.split("=")[0] for text in cuda._closure(t)} for t in ({}, there))
    assert {"numpy", "pandas"} <= whole and "numpy" not in rest and "pandas" in rest
    assert any(name.startswith("torchao") for name in rest) and "torch" not in whole


def test_models_of_the_parts_are_converted_without_a_network(pack, cuda, monkeypatch):
    folder = pack({"wheels/a.whl": b"", "models/gemma/g.whl": b"", "models/smol/s.whl": b""})
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda words, **o: calls.append((words, o.get("env"))))
    cuda.use_parts(folder)
    pulls = [(words[-1], env) for words, env in calls if words[-2] == "pull"]
    assert [name for name, _ in pulls] == ["gemma", "smol"]
    for name, env in pulls:
        assert env["PIP_NO_INDEX"] == "1" and env["PIP_FIND_LINKS"].endswith(f"models/{name}")


def test_a_stage_that_ended_well_is_skipped(cuda, tmp_path, monkeypatch, capsys):
    codes, ended = iter([1, cuda.STOPPED, 0]), []

    def call(command, end, log):
        log.write_text("tiny has no speed\n\n")
        return next(codes)

    monkeypatch.setattr(cuda, "call", call)
    rig = cuda.Rig(tmp_path / "r", "cpu", is_tiny=True)
    archive = tmp_path / "a.tar.gz"
    for _ in range(4):
        cuda.run(["decode"], rig, float("inf"), archive)
        row = (tmp_path / "r" / "stages.md").read_text().split("\n")[-3]
        ended.append(row.split(" | ")[-1].removesuffix(" |"))

    assert ended[0] == "failed with exit code 1: tiny has no speed"
    assert ended[1].startswith("stopped") and ended[2:] == ["done", "done"]
    assert next(codes, None) is None and "| 5 min |" in row
    assert "skipped: it took" in capsys.readouterr().out
    with tarfile.open(archive) as tar:
        assert "r/stages.md" in tar.getnames()


def test_records_without_a_number_are_named(cuda, tmp_path):
    fake_records.failed(tmp_path)
    (line,) = cuda.without_numbers(tmp_path)
    assert line.endswith("is failed: OOM")


def test_ctrl_c_lets_a_command_save(cuda, tmp_path, monkeypatch):
    """Its own process group gets no Ctrl-C of a terminal, so it is interrupted once."""
    program = "import time\nprint('begun', flush=True)\n"
    program += "try: time.sleep(60)\nexcept KeyboardInterrupt: print('saved')"
    log = tmp_path / "log"

    def press():
        while not (log.exists() and "begun" in log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=press).start()
        assert cuda.call([sys.executable, "-c", program], float("inf"), log) == cuda.STOPPED
    finally:
        signal.signal(signal.SIGINT, before)
    assert log.read_text().split() == ["begun", "saved"]


@pytest.mark.parametrize(("factor", "differing"), [(1.0, 0), (1.5, 1)])
def test_numbers_of_the_card_are_compared_with_those_of_the_cpu(
    cuda, tmp_path, monkeypatch, factor, differing
):
    values = iter([10.0, 10.0 * factor])

    def records(folder):
        reading = SimpleNamespace(metric="perplexity", value=next(values))
        identity = SimpleNamespace(method="wanda", quantizer="none")
        return [SimpleNamespace(identity=identity, readings=[reading])]

    for name in ("smoke", "smoke-cpu"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("bench.results.store.ReadOnlyStore", records)
    assert len(cuda.compare_devices(tmp_path)) == differing


def test_without_a_card_it_says_how_to_test(cuda, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cuda.run(["check"], cuda.Rig(tmp_path), float("inf")) == 2
    assert "use --dry or --tiny" in capsys.readouterr().err


def test_no_parts_are_a_sentence(tmp_path):
    done = run("--from", str(tmp_path), "--stage", "check")
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1].endswith(f"error: no part-* in {tmp_path}")
        and "Traceback" not in done.stderr
    )
