"""The table of `bench plan` with its estimates, in a terminal of 80 columns.

`pytest tests/parts/forecasts/test_plan_table.py --write-terminal` writes plan-80.txt again.
"""

from pathlib import Path

import pytest
from rich.cells import cell_len

from bench.parts.forecasts import plan_costs
from helpers import terminal

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
