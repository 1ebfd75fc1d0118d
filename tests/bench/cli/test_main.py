"""What the command line says of faults that no command looked at."""

import errno
import os
import subprocess
import sys

import pytest

from bench.catalog import registry
from bench.cli import main as command_line
from bench.system import provenance
from helpers import runs, terminal
from methods.contract.errors import UserError


def fail(monkeypatch, path, number=errno.ENOENT):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), path and str(path))

    monkeypatch.setattr(command_line, "app", refuse)


def test_a_path_is_a_sentence(refused, monkeypatch, tmp_path):
    fail(monkeypatch, tmp_path / "x/y")
    said = refused("report", str(tmp_path), "--json")
    assert said.startswith(f"bench: {str(tmp_path / 'x/y')!r} cannot be used (No such file or")


@pytest.mark.parametrize(
    ("path", "number"), [(None, errno.ENOENT), (".", errno.EIO), ("/made/by/us", errno.ENOENT)]
)
def test_any_other_fault_keeps_its_traceback(cli, monkeypatch, tmp_path, path, number):
    monkeypatch.chdir(tmp_path)
    fail(monkeypatch, path, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        cli("report", str(tmp_path))


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_full_disk_is_a_sentence(cli, monkeypatch, kind):
    """safetensors says it in the text of its own error."""

    def full(*_, **__):
        raise kind(errno.ENOSPC, "No space left on device (os error 28)")

    monkeypatch.setattr(command_line, "app", full)
    code, _, err = cli("report")
    assert (code, err.startswith("bench: stopped: the disk is full")) == (1, True)


def test_the_version_names_the_commit(cli, monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: {"id": "0123456789abcdef", "dirty": True})
    said = f"cast-bench {provenance.VERSION} (commit 0123456789ab, changed since)\n"
    assert cli("--version") == (0, said, "")
    monkeypatch.setattr(provenance, "commit", lambda: {"id": None, "dirty": None})
    assert cli("--version") == (0, f"cast-bench {provenance.VERSION}\n", "")


def test_no_summary_of_a_command_is_cut(output, monkeypatch):
    terminal.open_terminal(monkeypatch, 80)
    out = output("--help")
    commands = out.partition("Compress and measure:")[2]
    assert commands and "..." not in commands


@pytest.mark.parametrize(
    "command",
    ["prune --method wanda", f"finetune --artifact {runs.TINY} --pattern 2:4 --data 😀.txt"],
)
def test_a_default_does_not_override_the_config(cli, monkeypatch, tmp_path, command):
    specs = []

    def take(spec, *_):
        specs.append(spec)
        raise UserError("enough")

    monkeypatch.setattr("bench.execution.prune.write_pruned", take)
    config = tmp_path / "x.toml"
    verb, *_ = line = [*command.split(), "--out", tmp_path / "out", "--config", config]
    config.write_text('models = "smollm2-135m"\nmethods = "awq"\nseeds = 7\n')
    for seed in ((), ("--seed", "3")):
        cli(*line, *seed)
    config.write_text("seeds = [1, 2]\n")
    code, _, err = cli(*line)

    assert [spec.seeds for spec in specs] == [(7,), (3,)]
    assert verb != "finetune" or specs[0].training.data == "😀.txt"
    assert verb == "finetune" or specs[0].models == ("smollm2-135m",)
    assert code == 2 and "seed" in err


@pytest.mark.parametrize(
    "command", ["top", "check", pytest.param("export", marks=pytest.mark.parts("exports"))]
)
def test_an_argument_that_may_be_left_out_is_in_one_pair_of_brackets(command, output):
    usage = output(command, "--help").splitlines()[0]
    assert usage.endswith("]") or usage.endswith("]...")
    assert "[[" not in usage


@pytest.mark.parametrize("command", ["ls models", "--help"])
def test_output_that_nobody_reads_is_no_verdict(command):
    """Exit code 1 would be that of a gate that failed."""
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "bench", *command.split()]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)

    assert (done.returncode, done.stderr) == (141, b"")


def test_the_help_opens_with_three_examples_and_groups_every_command(output):
    lines = output("--help").splitlines()
    examples = [line.split()[1] for line in lines if line.startswith("  bench ")]
    assert examples == ["run", "plan", "pick"] and max(map(len, lines)) <= 80
    assert "Others:" not in lines
    for heading, group in command_line.GROUPS.items():
        below = lines[lines.index(f"{heading}:") + 1 :]
        names = [name for name in group if registry.is_installed("commands", name)]
        assert [line.split()[0] for line in below[: len(names)]] == names


@pytest.mark.parametrize("setting", ["zeroshot.limit=5", "perplexity.windows=4"])
def test_a_setting_of_a_measure_that_does_not_run_is_refused(refused, setting):
    said = refused("run", "--measures", "answers", "--set", setting)
    assert f"--set {setting} has no effect" in said


def test_a_setting_that_one_of_its_measures_reads_is_taken(cli):
    flags = ["--measures", "agreement", "--quant", "none", "--methods", "magnitude"]
    assert cli("plan", *flags, "--set", "perplexity.windows=4")[0] == 0
