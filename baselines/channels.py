"""Channels: remove hidden channels. SliceGPT (Ashkboos et al. 2024), arXiv 2401.15024, and
Minitron, arXiv 2407.14679."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Removes
from methods.contract.ranges import Share
from methods.model.smaller_folder import count_left
from methods.workshop.transforms.wiring import Wiring


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Remove hidden channels, those of the least energy; what is left is an ordinary smaller model.

    drop: share of the channels. The energy is that of what the norms read on calibration text, with
    each token scaled to the same norm. After rotate:pca the channels are principal components, as
    in SliceGPT.
    """

    name: ClassVar[str] = "channels"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2401.15024",
        does=Does.REMOVES,
        removes=(Removes("channels", ("drop",)),),
        cost=Cost(passes=1),
    )
    drop: Share = "25%"

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        wiring = Wiring(model, job, self.name)
        left = count_left({"channels": self.drop}, wiring.config.to_dict())["channels"]
        energy = wiring.stream_moment(job).diagonal()
        kept = energy.argsort(descending=True, stable=True)[:left].sort().values
        share = float(energy[kept].sum() / energy.sum())
        notes = {
            "channels": {"of": len(energy), "left": left},
            "kept_energy": float(f"{share:.6g}"),
        }
        return Outcome(model, kept={"channels": tuple(kept.tolist())}, notes=notes)
