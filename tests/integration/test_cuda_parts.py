"""Parts that carry packages, a model and texts to a card without a network."""

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bench.catalog.parts import found_parts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = 100_000


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import parts

    return parts


@pytest.fixture
def packed(tmp_path, parts):
    """What was packed, by its name there, and the folder of its parts."""
    files = {
        "wheels/a.whl": b"wheel",
        "cache/models/m/model.safetensors": bytes(range(256)) * 1100,
        "cache/empty": b"",
    }
    paths = {}
    for number, (name, content) in enumerate(files.items()):
        paths[name] = tmp_path / f"source-{number}"
        paths[name].write_bytes(content)
    parts.write_parts(tmp_path / "parts", paths, SIZE)
    return files, tmp_path / "parts"


def test_what_is_unpacked_is_what_was_packed(packed, parts, tmp_path):
    files, folder = packed
    sizes = [p.stat().st_size for p in folder.iterdir()]
    parts.unpack(folder, tmp_path / "there")
    assert len(sizes) > 3 and max(sizes) <= SIZE
    there = [path for path in (tmp_path / "there").rglob("*") if path.is_file()]
    found = {str(p.relative_to(tmp_path / "there")): p.read_bytes() for p in there}
    del found["index.json"]
    assert found == files


@pytest.mark.parametrize("damage", ["first", "middle", "last", "byte", "none"])
def test_damaged_parts_are_a_sentence_and_leave_nothing(packed, parts, tmp_path, damage):
    _, folder = packed
    found = sorted(folder.iterdir())
    if damage == "byte":
        content = bytearray(found[1].read_bytes())
        content[5000] ^= 1
        found[1].write_bytes(content)
    else:
        gone = {"first": found[:1], "middle": found[2:3], "last": found[-1:], "none": found}
        for path in gone[damage]:
            path.unlink()
    with pytest.raises(parts.Damaged, match=r"missing|no part"):
        parts.unpack(folder, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_part_cannot_write_elsewhere(packed, parts, tmp_path):
    _, folder = packed
    with tarfile.open(folder / "part-09.tar", "w") as tar:
        member = tarfile.TarInfo("../../taken")
        tar.addfile(member, io.BytesIO())
    with pytest.raises(tarfile.FilterError):
        parts.unpack(folder, tmp_path / "a/there")
    assert not (tmp_path / "taken").exists()


def run(*words, bare=()):
    """Run the program. It imports from its own folder, which tox leaves out for the tests."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    words = [sys.executable, *bare, BENCHMARKS / "cuda.py", *words]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_needs_of_a_python_without_packages():
    """No package is imported before it is said to lack. torch is not among the parts."""
    done = run("--needs", bare=["-S"])  # with nothing but the standard library
    assert done.returncode == 1, done.stderr
    lacking = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert "--from DIR" in lacking["package pytest>=8.3"]
    assert "CUDA driver; --pack leaves it out" in lacking["package torch>=2.9"]


@pytest.mark.skipif("speed" not in found_parts(), reason="the part speed is not there")
def test_without_a_card_each_stage_is_planned(parts, tmp_path):
    # NVIDIA's package `cuda`, which newer versions of torch import, has the same name.
    spec = importlib.util.spec_from_file_location("cuda_benchmark", BENCHMARKS / "cuda.py")
    cuda = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cuda)

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
    assert done.stderr.splitlines()[-1].endswith(f"error: no part-*.tar in {tmp_path}")
    assert "Traceback" not in done.stderr
