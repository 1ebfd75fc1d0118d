"""The parts that carry packages, a model and texts to a card without a network; and its stages without a card."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

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
    files = {"wheels/a.whl": b"wheel", "cache/models/m/model.safetensors": bytes(range(256)) * 1100, "cache/empty": b""}
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
    found = {
        str(p.relative_to(tmp_path / "there")): p.read_bytes() for p in (tmp_path / "there").rglob("*") if p.is_file()
    }
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
        for path in {"first": found[:1], "middle": found[2:3], "last": found[-1:], "none": found}[damage]:
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


def run(*words):
    return subprocess.run([sys.executable, BENCHMARKS / "cuda.py", *words], capture_output=True, text=True, check=False)


def test_an_unknown_stage_is_a_sentence():
    done = run("--stage", "chek")

    assert done.returncode == 2
    assert "unknown stage 'chek': use some of check, shapes, decode, prefill, train, quality" in done.stderr


def test_needs_of_a_python_without_packages(tmp_path):
    """Nothing but the standard library is there: no package is imported before it is said to lack."""
    done = subprocess.run(
        [sys.executable, "-S", BENCHMARKS / "cuda.py", "--needs"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1, done.stderr
    lacking = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert {"package torch>=2.9", "package pytest>=8.3"} <= set(lacking)


def test_parts_may_be_named_with_a_slash(tmp_path):
    """Unpacked already; what lies there is used, and the other arguments go along."""
    (tmp_path / "parts/unpacked/site").mkdir(parents=True)
    done = run("--from", f"{tmp_path}/parts/", "--needs")

    assert "unrecognized arguments" not in done.stderr
    assert done.returncode in (0, 1) and not done.stderr.startswith("usage"), done.stderr
