"""The table of `bench plan` with its estimates, in a terminal of 80 columns.

`pytest tests/parts/forecasts/test_plan_table.py --write-terminal` writes plan-80.txt again.
"""

from pathlib import Path

import pytest
from rich.cells import cell_len

from bench import api
from bench.parts.forecasts import plan_costs
from bench.planning.work import Arithmetic
from bench.system import provenance
from helpers import runs, terminal

FILE = Path(__file__).parent / "plan-80.txt"
COMMAND = "plan --methods dense,wanda:from=magnitude,cast --device cpu --set threads=2"


@pytest.mark.usefixtures("cache")
def test_the_table_of_a_plan_has_its_estimates(cli, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan_costs, "_flops", lambda threads: 1e11)
    terminal.open_terminal(monkeypatch, 80)
    code, out, err = cli(*COMMAND.split())
    text = f"$ bench {COMMAND}\n{out}{err}"

    assert code == 0 and max(cell_len(line) for line in out.splitlines()) <= 80
    if request.config.getoption("--write-terminal"):
        FILE.write_text(text)
    assert FILE.read_text() == text, f"{FILE.name} is out of date: write it again and review it"


@pytest.mark.usefixtures("cache")
def test_time_on_a_cpu_follows_the_number_format_and_what_is_multiplied(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_costs, "_flops", lambda threads: 1e11)
    monkeypatch.setattr(provenance, "instruction_set", lambda: "amx")
    wanted = {"methods": ("dense",), "measures": ("size",)}
    artifact = api.plan(runs.small(tmp_path / "r", **wanted)).measurements[0].artifact
    part = Arithmetic(operations=1e12, hessians=4e11)
    sizes = artifact.sizes
    assert sizes.multiplied == sizes.parameters, "tiny is tied"
    more = {"outside": 10**9, "parameters": 4 * sizes.vocabulary * sizes.hidden}
    untied = {"sizes": sizes.model_copy(update=more)}

    def seconds(changes):
        return plan_costs._cpu_seconds(part, artifact.model_copy(update=changes))

    assert seconds({"dtype": "float32"}) == pytest.approx(10)
    assert seconds({"dtype": "bfloat16"}) == pytest.approx(6 / 2.5 + 4)
    assert seconds({"dtype": "float32"} | untied) == pytest.approx(6 * 3 / 4 + 4)
