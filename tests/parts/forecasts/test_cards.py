"""Plans for models and cards that are not here."""

import math

import pytest

from bench.inputs.datasheets import device_specs
from bench.inputs.shapes import planned_model
from bench.parts.forecasts.cards import RATE, Cards, enough, split_cards
from bench.parts.forecasts.cost_model import CostModel
from bench.parts.forecasts.plan_costs import estimate_columns
from bench.planning.memory import training_device_bytes
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from bench.planning.work import count_operations
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def planned(tmp_path, **changes):
    spec = Spec(results=tmp_path / "r", quantizers=("none",), **changes)
    spec, cards = split_cards(spec)
    return make_plan(spec), cards


def test_a_plan_with_no_file_present(tmp_path, cli):
    code, out, err = cli("plan --model llama2-70b --methods wanda --quant none --device 8xh100")

    assert code == 0, err
    assert "1, block by block" in out and "arithmetic, not measured" in err
    assert "llama2-70b is not downloaded yet" in err and "of about 138 GB" in err


def test_the_time_and_the_cards_that_are_enough(tmp_path):
    plan, cards = planned(tmp_path, models=("llama2-7b",), methods=("cast",), device="8xh100",
                          training={"recipe": "paper-7b"})  # fmt: skip

    found = estimate_columns(plan, CostModel(()), cards)
    (trained,) = [m[0].artifact for m in plan.artifacts().values() if m[0].artifact.training]
    assert trained.processes == 8 and trained.device == "cuda"
    assert found[0]["cards_enough"] == "1"
    count = int(enough(trained, cards))
    limit = 0.95 * 80e9
    assert (
        training_device_bytes(trained, count) <= limit < training_device_bytes(trained, count // 2)
    )
    operations = count_operations(plan.artifacts().values())
    seconds = sum(row["about_s"] for row in found)
    assert seconds == pytest.approx(operations / (RATE * 989.4e12), abs=5)


@pytest.mark.parametrize(
    ("methods", "device", "said"),
    [
        ("cast", "8xh100", "on 8 x H100 SXM: about 37 h in all, of which 37 h training"),
        # Each training takes all cards.
        ("cast,retrain", "8xh100", "about 3.1 days in all, of which 3.1 days training"),
        ("wanda", "A10", "; --set calibration.sequences=32 cuts most, to about 5.2 min"),
        ("wanda,cast", "h100", "This counts 2 of 3 rows: cast on llama2-7b does not fit (cards"),
    ],
)
def test_the_total_of_all_rows(methods, device, said, cli):
    """A sum over trainings, each of which takes all cards, without rows that take more than there
    are."""
    code, _, err = cli("plan --model llama2-7b --quant none --methods", methods, "--device", device)

    assert code == 0, err
    assert said in err


def test_each_method_takes_its_own_passes_hessians_and_columns(tmp_path):
    """On LLaMA2-7B, with 128 x 4096 tokens."""
    plan, cards = planned(
        tmp_path,
        models=("llama2-7b",),
        methods=("wanda", "sparsegpt", "recon"),
        measures=("size",),
        device="h100",
    )
    rows = estimate_columns(plan, CostModel(()), cards)
    start, wanda, sparsegpt, recon = (row["about_s"] for row in rows)
    weights, tokens, rate = 6.738e9, 128 * 4096, 0.4 * 989.4e12
    squares, columns = 32 * (3 * 4096**2 + 11008**2), 32 * (6 * 4096 + 11008)
    products = 2 * weights * tokens / rate

    assert wanda - start == pytest.approx(2 * products, abs=1)
    hessians = squares * tokens / (rate / 15)
    assert sparsegpt - wanda == pytest.approx(hessians + columns * 7 * 1e-5, abs=1)
    assert recon - start == pytest.approx(15 * products, abs=1), "sparsegpt is in the row before it"


@pytest.mark.parametrize(
    ("model", "count", "gigabytes", "said"),
    [
        ("llama2-7b", 2, 105.0, "2 with recompute=true"),
        ("llama2-7b", 4, 73.0, "4"),
        ("llama2-13b", 8, 97.1, "8 with recompute=true"),
        ("llama2-70b", 8, 416.0, "32 with recompute=true"),
    ],
)
def test_a_training_counts_its_activations(tmp_path, model, count, gigabytes, said):
    """By hand for the 7B on two: 64.0 of weights and state, 3.0 gathered, 19.3 of activations, 13.5
    of copies in bfloat16, 5.2 of head and logits."""
    plan, cards = planned(
        tmp_path,
        models=(model,),
        methods=("cast",),
        device=f"{count}xh100",
        training={"recipe": "paper-7b"},
    )
    (trained,) = [m[0].artifact for m in plan.artifacts().values() if m[0].artifact.training]
    row = estimate_columns(plan, CostModel(()), cards)[-1]

    assert training_device_bytes(trained, count) / 1e9 == pytest.approx(gigabytes, abs=0.1)
    assert row["cards_enough"] == said
    weights = trained.sizes.parameters / 1e9
    assert row["about_disk_GB"] == pytest.approx(39 * weights, abs=0.1), "three checkpoints"


@pytest.mark.parametrize("name", ["training", "calibration"])
def test_more_processes_than_cards(name):
    spec = Spec(device="8xh100", **{name: {"processes": 16}})
    with pytest.raises(
        UserError,
        match=f"{name}.processes=16 is more than the 8 cards of device 8xh100: use --device 16x",
    ):
        split_cards(spec)


@pytest.mark.parametrize(
    ("name", "tokens", "hours", "card", "ratio"),
    [("llama2-7b", 2e12, 184_320, "a100", 1.02), ("llama3-70b", 15e12, 6.4e6, "h100", 1.4)],
)
def test_the_rate_against_trainings_that_were_published(name, tokens, hours, card, ratio):
    """Hours of cards from the LLaMA 2 paper, table 2, and from the model card of Llama 3."""
    parameters = sum(math.prod(shape) for shape in planned_model(name).shapes.values())
    _, cards = split_cards(Spec(device=card))
    arithmetic = 3 * 2 * parameters * tokens / cards.flops / 3600  # one pass forward, two backward

    assert hours / arithmetic == pytest.approx(ratio, rel=0.03)


@pytest.mark.parametrize(
    ("device", "said"),
    [("8xh1000", "'8xh1000' is unknown: .*, rtx4090, "), ("0xh100", "use 1 to 1024")],
)
def test_unknown_cards(device, said):
    with pytest.raises(UserError, match=said):
        split_cards(Spec(device=device))


@pytest.mark.parametrize("name", ["A10G", "RTX 4090", "rtx-pro-6000", "2xH100"])
def test_a_card_is_named_as_people_write_it(name):
    _, cards = split_cards(Spec(device=name))
    assert cards.card in device_specs().values()


def test_the_help_names_every_card(output):
    text = " ".join(output("plan", "--help").split())
    assert f"Cards: {', '.join(device_specs())}" in text


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda", "cuda:1", "cuda:0,cuda:1"])
def test_devices_of_this_machine_are_left_alone(device):
    assert split_cards(Spec(device=device))[1] is None


def test_a_card_without_a_count():
    spec, cards = split_cards(Spec(device="h200"))
    assert isinstance(cards, Cards)
    assert (cards.count, cards.card.gb, spec.training.processes) == (1, 141, 1)
