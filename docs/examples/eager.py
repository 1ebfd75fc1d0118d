"""An engine: a library that `bench speed` times on a whole model."""

from typing import Any, ClassVar

import torch

from bench.inputs import loading
from bench.parts.speed.engines.contract import Contestant, Engine, Step
from bench.parts.speed.versions import DENSE, ModelVersions
from methods.contract.method import Compute


class Eager(Engine):
    """torch in float32, without a KV cache."""

    kinds: ClassVar[dict[str, str]] = {"fp32": "none"}

    def about(self) -> dict[str, Any]:
        return {"torch": torch.__version__}

    def contestants(
        self, versions: ModelVersions, step: Step, device: str, threads: int
    ) -> list[Contestant]:
        place = torch.device(device)
        compute = Compute(device=place, dtype=torch.float32, threads=threads)
        model = loading.load(versions.folder(DENSE), compute)
        ids = torch.ones(1, step.prompt + step.kv, dtype=torch.long, device=place)

        @torch.inference_mode()
        def work() -> None:
            model(ids)

        return [Contestant("fp32", DENSE, work)]
