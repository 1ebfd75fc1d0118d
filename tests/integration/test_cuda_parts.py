"""Parts that carry packages and a model to a card without a network, and stages without a card."""

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bench.catalog.parts import found_parts

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
def test_without_a_card_each_stage_is_planned(cuda, tmp_path):
    made = {
        name: [cuda.plan_of(c)[1:] for c in cuda.commands(name, tmp_path)] for name in cuda.STAGES
    }
    for words in (words for commands in made.values() for words in commands):
        assert "--device" not in words or "cuda" not in words[words.index("--device") + 1]
    (check,) = made["check"]
    assert check[:2] + check[-1:] == ["-m", "pytest", "--collect-only"]
    for model, words in zip(cuda.SHAPES, made["shapes"], strict=True):
        assert words[2:5] + words[-2:] == ["speed", "--model", model, "--device-spec", "h100"]
    for name, count in {"decode": 1, "prefill": 1, "train": 3, "quality": 3}.items():
        assert len(made[name]) == count
        commands = cuda.commands(name, tmp_path)
        for (_, _, verb, *rest), command in zip(made[name], commands, strict=True):
            assert (verb, rest) == ("plan", [w.replace("cuda", "cpu") for w in command[4:]])


@pytest.mark.slow
def test_every_plan_is_one_that_the_program_takes(tmp_path):
    """Whether or not the model is here: a wrong flag is an exit code of 2."""
    done = run("--results", str(tmp_path / "r"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipped: no CUDA device") == 11 and "tests collected" in done.stdout


def test_no_parts_are_a_sentence(tmp_path):
    done = run("--from", str(tmp_path), "--stage", "check")
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1].endswith(f"error: no part-* in {tmp_path}")
        and "Traceback" not in done.stderr
    )
