"""The README's way from a model to a server, command by command, with the bundled model."""

import json
import re
import shlex
from pathlib import Path

import pytest

from helpers import runs
from methods.model.folder import Folder

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
FEW = ["--measures=perplexity,size", "--set=perplexity.windows=4", "--set=calibration.sequences=4",
       "--device=cpu", "--set=threads=1"]  # fmt: skip
"""Settings of a run of seconds. Tasks of lm-eval take as long to import as all else."""


def commands(heading):
    """Words of each command of bench in the code below a heading, with the bundled model."""
    part = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", part, re.DOTALL)
    lines = [line.partition("#")[0] for line in block.splitlines()]
    found = [shlex.split(line.replace("$MODEL", "tiny")) for line in lines]
    return {words[1]: words[2:] for words in found if words[0] == "bench"}


@pytest.mark.parts("exports", "gptq")
@pytest.mark.usefixtures("cache")
def test_from_a_model_to_what_a_server_loads(cli, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.workers_here(monkeypatch)
    way = commands("Your model")
    assert list(way) == ["plan", "run", "pick", "export"]
    _, _, said = cli("plan", *way["plan"])
    assert "on one A10: about" in said
    output("run", *way["run"], *FEW)
    assert "Make it:" in cli("pick", *way["pick"])[1]
    records = json.loads(output("ls", "runs", "--json"))
    key = next(
        r["record"]
        for r in records
        if (r["method"], r["quantizer"]) == ("awq", "int4-gptq:embed=int8")
    )
    output("export", *(key if word == "RECORD" else word for word in way["export"]))

    assert Folder(tmp_path / "served").config["quantization_config"]["quant_method"] == "gptq"


@pytest.mark.usefixtures("cache")
def test_the_plan_needs_no_file_of_the_model(output, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = re.search(r"^MODEL=(\S+)", TEXT, re.MULTILINE)[1]
    words = [model if word == "tiny" else word for word in commands("Your model")["plan"]]
    assert "awq" in output("plan", *words)


@pytest.mark.usefixtures("cache")
def test_the_method_runs_beside_another(output, tmp_path, monkeypatch):
    runs.workers_here(monkeypatch)
    monkeypatch.chdir(ROOT)
    words = commands("Add a method")["run"]
    measures = ["--measures", "pattern", "--results", str(tmp_path / "r")]
    assert "row-norm" in output("run", *words, *measures, "--device", "cpu")
