"""When a training saves its state, and who writes it: the training itself or a thread beside it."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from torch import Tensor

from methods.workshop.training import process_group, training_checkpoint

MAX_SHARE = 0.05
"""Largest share of a training's time for checkpoints, if the next takes as long as the last."""


class Saver:
    """The checkpoints of a training in one folder.

    The state of a card is copied and then written by a thread, while the card goes on. The threads
    of several processes write together. They agree by another process group, because their
    collective operations would mix with those of the training.
    """

    def __init__(self, root: Path, interval_s: float) -> None:
        """interval_s: least seconds between two checkpoints; 0 for one after each step."""
        self._root, self._interval_s = root, interval_s
        self._ended, self._took_s = time.monotonic(), 0.0
        self._thread: threading.Thread | None = None
        self._fault: Exception | None = None
        self._group: Any = None

    def is_due(self) -> bool:
        """Return whether to save now."""
        if not self._interval_s:
            return True
        rest_s = self._took_s * (1 / MAX_SHARE - 1)
        return time.monotonic() - self._ended > max(self._interval_s, rest_s)

    def save(self, step: int, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Save a state. The caller may change it once this returns. Raise what `wait` raises."""
        started = time.monotonic()
        self.wait()
        if is_written_beside(tensors):
            copies = {
                name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()
            }
            if self._group is None:
                self._group = process_group.group_of_threads()
            state = step, copies, copy.deepcopy(dict(info)), self._group
            self._thread = threading.Thread(target=self._write, args=state)
            self._thread.start()
        else:
            training_checkpoint.write(self._root, step, tensors, info)
        self._ended = time.monotonic()
        self._took_s = self._ended - started

    def _write(
        self, step: int, tensors: Mapping[str, Tensor], info: Mapping[str, Any], group: Any
    ) -> None:
        try:
            training_checkpoint.write(self._root, step, tensors, info, group)
        except Exception as fault:  # noqa: BLE001 (raised again by `wait`)
            self._fault = fault

    def wait(self) -> None:
        """Wait until the last state is on disk. Raise the thread's exception, if it had one."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._fault:
            fault, self._fault = self._fault, None
            raise fault


def is_written_beside(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether threads write this state: it is on cards, and half of the machine's free
    memory has room for a copy of all processes' parts. All processes agree."""
    on_card = any(tensor.is_cuda for tensor in tensors.values())
    if not on_card:
        return False
    (size,) = process_group.all_reduce_sum(
        sum(process_group.local(tensor).nbytes for tensor in tensors.values())
    )
    (lacks_room,) = process_group.any_rank(size > psutil.virtual_memory().available / 2)
    return not lacks_room
