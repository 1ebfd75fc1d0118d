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


@pytest.mark.parametrize(("card", "is_marked"), [("a10g", True), ("a10", False)])
@pytest.mark.parametrize(
    "words", ["plan --methods wanda --quant none --device {card}", "speed --device-spec {card}"]
)
def test_what_is_computed_from_an_unverified_rate_says_so(words, card, is_marked, cli):
    code, _, err = cli(words.format(card=card) + " --model llama2-7b")

    assert code == 0, err
    assert ("unverified for A10G, 24 GB: its rate in bf16" in err) == is_marked


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
        ("wanda", "A10", "; --set calibration.sequences=32 cuts most, to about 5.1 min"),
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
    products = 2 * (weights - 2 * 32000 * 4096) * tokens / rate  # no embedding and no head

    assert wanda - start == pytest.approx(2 * products, abs=1)
    hessians = squares * tokens / (rate / 15)
    assert sparsegpt - wanda == pytest.approx(hessians + columns * 7 * 1e-5, abs=1)
    assert recon - start == pytest.approx(15 * products, abs=1), "sparsegpt is in the row before it"


class ByHand:
    """A training of CAST on H100, with 4,096 tokens for each card at a time, from the numbers of
    the model's table in the LLaMA 2 paper alone."""

    def __init__(self, blocks, width, hidden, keys):
        self.blocks, self.width = blocks, width
        self.block = 2 * width**2 + 2 * width * keys + 3 * width * hidden + 2 * width
        self.outside = 2 * VOCABULARY * width + width
        self.weights = blocks * self.block + self.outside

    def gigabytes(self, cards, recompute=False):
        """Master, gradient, two moments and a flag, and the teacher in bfloat16, are divided.
        Of two blocks student and teacher are whole, and the teacher's head."""
        divided = (17 + 2) * self.weights / cards
        gathered = 0 if cards == 1 else 2 * self.outside + 2 * self.block * (4 + 2)
        if recompute:
            kept = 4096 * self.width * (4 * self.blocks + 36) + 2 * 2 * self.block
        else:
            kept = 4096 * self.width * 36 * self.blocks + 2 * self.weights
        logits = 8 * VOCABULARY * self.width + 32 * 4096 * VOCABULARY
        return (divided + gathered + kept + logits) / 1e9

    def recomputes(self, cards):
        """Whether 95% of 80 GB are too little without it."""
        return self.gigabytes(cards) > 76

    def enough(self, cards):
        """The fewest cards for the training that these cards take."""
        recompute = self.recomputes(cards)
        counts = (count for count in COUNTS if self.gigabytes(count, recompute) <= 76)
        return f"{next(counts)} with recompute=true" if recompute else str(next(counts))

    def hours(self, cards):
        """Three passes of the student, one more with recompute, and one of the teacher, at 40% of
        989.4 TFLOP/s."""
        tokens, rate = 7500 * 256 * 4096, 0.4 * 989.4e12 * cards
        return (4 + self.recomputes(cards)) * 2 * self.weights * tokens / rate / 3600


COUNTS = (1, 2, 4, 8, 16, 32, 64)
VOCABULARY = 32_000
BY_HAND = {
    "llama2-7b": ByHand(32, 4096, 11_008, 4096),
    "llama2-13b": ByHand(40, 5120, 13_824, 5120),
    "llama2-70b": ByHand(80, 8192, 28_672, 1024),
}


@pytest.mark.parametrize("model", BY_HAND)
@pytest.mark.parametrize("cards", COUNTS[:4])
def test_a_training_is_what_a_calculation_by_hand_gives(tmp_path, model, cards):
    plan, own = planned(
        tmp_path,
        models=(model,),
        methods=("cast",),
        device=f"{cards}xh100",
        training={"recipe": "paper-7b"},
    )
    (trained,) = [m[0].artifact for m in plan.artifacts().values() if m[0].artifact.training]
    row, hand = estimate_columns(plan, CostModel(()), own)[-1], BY_HAND[model]

    found = training_device_bytes(trained, cards) / 1e9
    assert found == pytest.approx(hand.gigabytes(cards), rel=0.002)
    assert row["cards_enough"] == hand.enough(cards)
    # Measures hold the trained and the dense model, of the 70B a few blocks.
    both = 0 if model == "llama2-70b" else 4 * hand.weights / 1e9
    needed = max(both, hand.gigabytes(cards, hand.recomputes(cards)))
    assert row["about_device_GB"] == pytest.approx(needed, rel=0.002)
    assert row["about_s"] / 3600 == pytest.approx(hand.hours(cards), rel=0.002)
    assert row["about_disk_GB"] == pytest.approx(3 * 13 * hand.weights / 1e9, rel=0.002)


def test_what_the_hand_calculation_gives():
    """So that a fault of both is seen: the 7B on two cards needs 105 GB, the 13B on eight 97."""
    numbers = [BY_HAND["llama2-7b"].gigabytes(2), BY_HAND["llama2-13b"].gigabytes(8)]
    numbers.append(BY_HAND["llama2-70b"].gigabytes(8))
    assert numbers == pytest.approx([105.0, 97.1, 416.0], abs=0.1)


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
    [
        ("llama2-7b", 2e12, 184_320, "a100", 1.02),
        ("llama2-70b", 2e12, 1_720_320, "a100", 0.93),
        ("llama3-70b", 15e12, 6.4e6, "h100", 1.4),
        ("llama3-8b", 15e12, 1.3e6, "h100", 2.6),
    ],
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
