"""Plans for cards that are named, such as 8xh100: time by their datasheet, and the number of cards
that is enough."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.inputs.datasheets import DeviceSpec, device_specs
from bench.planning.artifact import Artifact
from bench.planning.memory import (
    estimate_device_bytes,
    streamed_device_bytes,
    training_device_bytes,
    with_recompute,
)
from bench.planning.spec import Spec
from bench.planning.work import Arithmetic
from bench.system.devices import CARD
from bench.system.suggest import shorten
from bench.system.text import amount
from methods.contract.errors import UserError

RATE = 0.4
"""Share of the datasheet's rate that a whole run reaches. LLaMA 2's trainings on A100 reached 38%
to 43% (arXiv 2307.09288, table 2), and Llama 3's on H100 reached 16% and 28% (hours of its model
card)."""
FLOAT32 = 1 / 15
"""Rate of float32 products, which tensor cores do not compute, relative to bf16: 67 and 989.4
TFLOP/s in the datasheet of the H100 SXM."""
LAUNCH_S = 1e-5
"""Seconds of a small kernel with its launch by PyTorch. A guess that was not measured."""
FILLED = 0.95
"""Share of a card's memory that an artifact may use."""
MAX_CARDS = 1024


@dataclass(frozen=True)
class Cards:
    """Cards of one kind."""

    count: int
    card: DeviceSpec

    @property
    def flops(self) -> float:
        """Operations per second of one card."""
        return RATE * 1e12 * self.card.peak("bf16")

    @property
    def usable_bytes(self) -> float:
        return FILLED * 1e9 * self.card.gb

    def seconds(self, part: Arithmetic) -> float:
        """Return the time of a part of an artifact's work."""
        operations = part.operations + part.float32 * (1 / FLOAT32 - 1)
        return operations / self.flops + part.launches * LAUNCH_S

    def fewest(self, artifact: Artifact) -> int:
        """Return the smallest number of cards, a power of two, that holds a training. It is more
        than MAX_CARDS if none does."""
        count = 1
        while count <= MAX_CARDS and training_device_bytes(artifact, count) > self.usable_bytes:
            count *= 2
        return count

    def choose_recompute(self, artifact: Artifact) -> Artifact:
        """Return an artifact with recompute=true if its training does not fit on these cards
        without it, and needs fewer with it."""
        if not artifact.training or self.fewest(artifact) <= self.count:
            return artifact
        saving = with_recompute(artifact)
        return saving if self.fewest(saving) < self.fewest(artifact) else artifact


def split_cards(spec: Spec) -> tuple[Spec, Cards | None]:
    """Return the spec for CUDA and the cards that its device names, or None if it names none.

    A card is named in upper or lower case, with or without its spaces: "RTX 4090" and rtx4090. All
    cards share a training, if the spec does not say how many processes do.

    Raises:
        UserError: unknown card, more than MAX_CARDS, or more processes than cards.
    """
    if re.fullmatch(rf"auto|cpu|{CARD}(,{CARD})*", spec.device):
        return spec, None
    match = re.fullmatch(r"(?:([0-9]{1,5})x)?(.*)", re.sub(r"[\s_-]", "", spec.device.lower()))
    assert match is not None
    known = device_specs()
    if match[2] not in known:
        raise UserError(
            f"device {shorten(spec.device)!r} is unknown: give auto, cpu, cuda, cuda:N, or a card: "
            f"{', '.join(known)}; several are 8xh100"
        )
    count = int(match[1] or 1)
    if not 0 < count <= MAX_CARDS:
        raise UserError(f"device {spec.device} names {count} cards: use 1 to {MAX_CARDS}")
    training = spec.training
    for name, processes in (
        ("training", training.processes),
        ("calibration", spec.calibration.processes),
    ):
        if processes > count:
            raise UserError(
                f"{name}.processes={processes} is more than the {amount(count, 'card')} of device "
                f"{spec.device}: use --device {processes}x{match[2]}, or fewer processes"
            )
    if training.processes == 1:
        training = training.model_copy(update={"processes": count})
    return spec.model_copy(update={"device": "cuda", "training": training}), Cards(
        count, known[match[2]]
    )


def enough(artifact: Artifact, cards: Cards) -> str:
    """Return the smallest number of cards, a power of two, that holds an artifact, in words.

    Measures of a model that one card does not hold read it block by block.
    """
    if artifact.training:
        count = cards.fewest(artifact)
        again = " with recompute=true" if any(s.recomputes for s in artifact.stages) else ""
        return f"{count}{again}" if count <= MAX_CARDS else f"more than {MAX_CARDS}"
    if (estimate_device_bytes(artifact) or 0.0) <= cards.usable_bytes:
        return "1"
    fits = streamed_device_bytes(artifact) <= cards.usable_bytes
    return "1, block by block" if fits else "none: a block does not fit"


def describe_rate(cards: Cards) -> str:
    """Return how the times for named cards were computed."""
    doubt = cards.card.doubt("bf16")
    return (
        f"times are arithmetic, not measured: {RATE:.0%} of the {cards.card.peak('bf16'):g} "
        f"TFLOP/s in the datasheet of {cards.card.name} ({cards.card.source})"
        + (f"; {doubt}" if doubt else "")
    )
