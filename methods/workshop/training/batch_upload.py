"""Copies from the CPU to a training's device that do not wait for the device."""

from __future__ import annotations

from torch import Tensor, device

from methods.contract.method import Corpus


def upload(tensor: Tensor, to: device) -> Tensor:
    """Copy a tensor from the CPU. A CUDA device reads pinned memory while this process
    continues."""
    if to.type == "cpu":
        return tensor
    if to.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(to, non_blocking=True)


class Batches:
    """A rank's batches, on the device. The next one is made and copied while the device
    computes."""

    def __init__(self, corpus: Corpus, to: device, rank: int, world: int) -> None:
        self._corpus, self._device, self._place = corpus, to, (rank, world)
        self._ahead: tuple[int, Tensor] | None = None

    def take(self, step: int) -> Tensor:
        """Return the batch of a step: int64 [sequences / world, seqlen]."""
        ahead, self._ahead = self._ahead, None
        if ahead and ahead[0] == step:
            return ahead[1]
        return self._load(step)

    def prefetch(self, step: int) -> None:
        """Prepare the batch of a step after the previous step is queued. On a CPU this would save
        nothing."""
        if self._device.type != "cpu":
            self._ahead = step, self._load(step)

    def _load(self, step: int) -> Tensor:
        return upload(self._corpus.batch(step, *self._place), self._device)
