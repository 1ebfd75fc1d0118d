"""The table of `bench plan` with its estimates, in a terminal of 80 columns.

`pytest tests/parts/forecasts/test_plan_table.py --write-terminal` writes plan-80.txt again.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from bench import api
from bench.parts.forecasts import plan_costs
from bench.parts.forecasts.cost_model import CostModel
from bench.parts.forecasts.past_costs import PastCost, timed_parts
from bench.planning.work import LOGIT_OPERATIONS, Arithmetic, count_work
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
def test_each_of_several_models_has_its_table(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan_costs, "_flops", lambda threads: 1e11)
    terminal.open_terminal(monkeypatch, 80)

    code, out, _ = cli("plan", "--model", "tiny,tiny-moe", "--methods", "dense", "--quant", "none")

    titles = [line for line in out.splitlines() if line.startswith("tiny")]
    assert code == 0 and titles == ["tiny", "tiny-moe"]
    assert out.count("~disk GB") == 2


@pytest.mark.usefixtures("cache")
def test_time_on_a_cpu_follows_the_number_format(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_costs, "_flops", lambda threads: 1e11)
    monkeypatch.setattr(provenance, "instruction_set", lambda: "amx")
    wanted = {"methods": ("dense",), "measures": ("size",)}
    artifact = api.plan(runs.small(tmp_path / "r", **wanted)).measurements[0].artifact
    part = Arithmetic(operations=1e12, float32=4e11)
    sizes = artifact.sizes

    def seconds(changes):
        return plan_costs._cpu_seconds(part, artifact.model_copy(update=changes))

    assert seconds({"dtype": "float32"}) == pytest.approx(10)
    assert seconds({"dtype": "bfloat16"}) == pytest.approx(6 / 2.5 + 4)
    # A gigabyte of weights takes seconds to load and check.
    large = artifact.model_copy(update={"sizes": sizes.model_copy(update={"parameters": 10**9})})
    assert plan_costs._start_seconds(large) == pytest.approx(plan_costs.START_S + 24)


@pytest.mark.usefixtures("cache")
def test_the_work_of_a_row_is_what_is_multiplied_and_the_distances_of_logits(tmp_path):
    wanted = {"methods": ("wanda",), "measures": ("perplexity", "agreement")}
    of_artifacts = api.plan(runs.small(tmp_path / "r", **wanted)).artifacts().values()
    dense, pruned = (count_work(some[0].artifact, some, set()) for some in of_artifacts)
    sizes = next(iter(of_artifacts))[0].artifact.sizes
    head = sizes.vocabulary * sizes.hidden
    assert sizes.multiplied == sizes.parameters, "tiny is tied"
    read, calibration = pruned.measures[0].tokens, pruned.stages[0].calibration

    assert [m.arithmetic for m in dense.measures] == [
        Arithmetic(2.0 * sizes.parameters * read),
        Arithmetic(),  # agreement of the dense model is known
        Arithmetic(),  # pattern
    ]
    distances = LOGIT_OPERATIONS * sizes.vocabulary * read
    assert pruned.measures[1].arithmetic[:2] == (2 * head * read + distances, distances)
    # Calibration ends at the last block. Wanda passes twice.
    blocks = sizes.parameters - sizes.outside
    assert pruned.stages[0].arithmetic.operations == 4 * blocks * calibration


@pytest.mark.usefixtures("cache")
def test_a_method_without_a_record_has_the_pace_of_what_has_one(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_costs, "_flops", lambda threads: 1e11)
    plan = api.plan(runs.small(tmp_path / "r", methods=("wanda",), measures=("perplexity",)))
    *_, some = plan.artifacts().values()
    artifact, work = some[0].artifact, count_work(some[0].artifact, some, set())
    counted = plan_costs._seconds(work, artifact, CostModel(()), None)
    measure = replace(timed_parts(work, artifact)[0], seconds=3 * counted[0])
    past = PastCost(("m",), "a", artifact.sizes.parameters, 4, [measure])

    found = plan_costs._seconds(work, artifact, CostModel([past]), None)

    assert found == pytest.approx([3 * seconds for seconds in counted])
