"""Output of commands in a terminal of 80 columns, as files to be reviewed:
tests/bench/cli/terminal/.

`pytest tests/bench/cli/test_terminal_output.py --write-terminal` writes them again.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from bench.catalog import registry
from bench.cli import doctor
from bench.comparing import baseline, result_arguments
from bench.execution import forecast
from bench.results.run_status import RunStatus, write_status
from helpers import fake_records, reports, runs, terminal

WIDTH = 80
FILES = Path(__file__).parent / "terminal"
SHOWN = fake_records.record("sparsegpt", 0, made="a").short_key
COMMANDS = {
    "report": "report --results results/tiny",
    "report-wide": "report --results results/wide",
    "report-equal-bytes": "report --results results/equal --equal-bytes",
    "compare": "compare results/before results/after",
    "plan": "plan --methods dense,wanda:from=magnitude,cast --device cpu --set threads=2",
    "ls-methods": "ls methods",
    "ls-methods-long": "ls methods --long",
    "ls-runs": "ls runs --results results/wide",
    "show": f"show {SHOWN} --results results/tiny",
    "top": "top results/ended",
    "doctor": "doctor",
    "baseline-show": "baseline show main",
    "pick": "pick --model tiny --max-bits 20 --results results/pick",
}


UNREACHABLE = (
    "timed out; models and corpora must be in the cache, in a mirror or on the package index"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with results, and a baseline."""
    home = tmp_path_factory.mktemp("terminal")
    reports.folder(home / "results/tiny")
    reports.compressed(home / "results/pick")
    _wide(home / "results/wide")
    _equal(home / "results/equal")
    for side, loss in (("before", 0.0), ("after", 0.03)):
        root = home / "results" / side
        about = {"made": side, "provenance": {"commit": {"id": side[0] * 40, "dirty": False}}}
        fake_records.perplexity(root, method="dense", **about)
        retrained = "magnitude + retrain:from=magnitude"
        fake_records.perplexity(root, loss, method=retrained, noise=1, **about)
        few = {"method": "sparsegpt", "seed": 0, "noise": len(side)} | about
        fake_records.perplexity(root, loss / 20, **few)
        fake_records.accuracy(root, int(loss * 1000), 2, method="wanda", seed=0, **about)
        fake_records.counted(
            root, "bytes_packed", 2.2e6, method="wanda", seed=0, measure="size", unit="B", **about
        )
    (home / "results/ended/records").mkdir(parents=True)
    about = {"host": "node7", "executor": "ray", "code": "1.2.0 (code 0123abcd)"}
    times = {"started": 1e9, "updated": 1e9 + 4000, "ended": 1e9 + 4000}
    counts = {"total": 120, "known": 20, "tried": {"ok": 97, "failed": 2, "skipped": 1}}
    write_status(home / "results/ended", RunStatus(name="a", **about, **times, **counts))
    fake_records.failed(
        home / "results/after", "ValueError: expected 4 tensors, found 3", method="maskllm"
    )
    baseline.write(
        result_arguments.read(home / "results/before"), home / "results/baselines/main.zip"
    )
    return home


@pytest.fixture
def here(data, tmp_path, monkeypatch, known_noise):
    """That folder, on a machine that is always the same."""
    runs.own_cache(tmp_path, monkeypatch)
    monkeypatch.chdir(data)
    _machine(monkeypatch)


def _wide(root):
    """Many columns, long names, and a failure."""
    rows = (
        ("dense", "dense", "none", 0.0),
        ("magnitude + retrain:from=magnitude", "2:4", "none", 0.1),
        ("sparsegpt + finetune:rank=8", "2:4", "llmcompressor-gptq", 0.2),
    )
    for method, pattern, quantizer, loss in rows:
        identity = {"pattern": pattern, "quantizer": quantizer}
        about = {"method": method, "seed": 0, "identity": identity}
        protocol = "wikitext2-stripped@2048x128"
        fake_records.perplexity(root, loss, protocol=protocol, noise=1, **about)
        for task in ("arc_challenge", "hellaswag", "wiki_continuation"):
            fake_records.accuracy(root, int(1000 * loss), protocol=f"{task}@1.0x1000", **about)
        beside = {"bits_per_weight": 9.125, "sparsity": 0.5}
        fake_records.counted(
            root, "bytes_packed", 176.1e6, measure="size", unit="B", beside=beside, **about
        )
    fake_records.failed(
        root, "ValueError: expected 4 tensors, found 3 in model.safetensors", method="alps", seed=0
    )


def _equal(root):
    for method, pattern, quantizer, bits in (
        ("dense", "dense", "int8", 8.1),
        ("sparsegpt", "2:4", "none", 9.0),
    ):
        about = {"method": method, "identity": {"pattern": pattern, "quantizer": quantizer}}
        fake_records.perplexity(root, 0.1, noise=1, **about)
        fake_records.bits(root, bits, **about)


def _machine(monkeypatch):
    # So that a new method changes no file.
    shown = ("dense", "sparsegpt", "cast", "sparseml-magnitude")
    built_in = {
        kind: {n: e for n, e in s.items() if n in shown} for kind, s in registry.SECTIONS.items()
    }
    monkeypatch.setattr(registry, "entries", built_in.__getitem__)
    monkeypatch.setattr(forecast, "find_forecasts", forecast.Forecasts)
    memory = SimpleNamespace(available=24.1e9, total=25.3e9)
    monkeypatch.setattr(doctor, "psutil", SimpleNamespace(virtual_memory=lambda: memory))
    monkeypatch.setattr(doctor.devices, "resolve_device", lambda _: "cpu")
    monkeypatch.setattr(doctor.devices, "cores", lambda: 2)
    monkeypatch.setattr(
        doctor.provenance, "machine", lambda: {"cpu": "AMD EPYC 9654 96-Core Processor"}
    )
    monkeypatch.setattr(doctor, "cache_dir", lambda: Path("/home/ada/.cache/cast-bench"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=82.5e9))
    monkeypatch.setattr(
        doctor.provenance, "describe_version", lambda: "0.1.0 (commit 0123456789ab)"
    )
    extras = {
        "llmcompressor": {"llmcompressor": False},
        "onnx": {"onnx": True, "onnxscript": False},
        "ray": {"ray": True},
    }
    monkeypatch.setattr(doctor.packages, "extras", lambda: extras)
    monkeypatch.setattr(doctor, "_network", lambda: doctor._row("hub", "unreachable", UNREACHABLE))
    monkeypatch.setattr(
        doctor, "_model", lambda name: doctor._row(f"model {name}", "ok", f"/usr/lib/assets/{name}")
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_terminal_output(name, here, cli, monkeypatch, request):
    terminal.open_terminal(monkeypatch, WIDTH)
    code, out, err = cli(*COMMANDS[name].split())
    text = f"$ bench {COMMANDS[name]}\n{out}{err}" + (f"exit code {code}\n" if code else "")

    assert max(cell_len(line) for line in out.splitlines()) <= WIDTH
    assert not terminal.obeyed(text)
    file = FILES / f"{name}-{WIDTH}.txt"
    if request.config.getoption("--write-terminal"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text, f"{file.name} is out of date: write it anew and review it"


def test_every_file_is_of_a_command():
    assert {f.stem for f in FILES.iterdir()} == {f"{name}-{WIDTH}" for name in COMMANDS}
