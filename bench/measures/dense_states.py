"""Cache of the dense model's final hidden states on windows, for all models that are compared with
it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measures import forward
from bench.system import digests, provenance
from bench.system.cache import cache_dir, evict, gc_lock, in_use, temporary_folder
from bench.system.files import publish
from bench.system.source_digest import digest_source

if TYPE_CHECKING:
    from torch import Tensor, nn

PART = "dense-states"
"""Name of the folder in the cache."""
DIGESTS = "sha256.json"
"""File with the digests of the other files, in order."""
STATES = "states"
"""Name of the tensor in each file."""


@dataclass(frozen=True)
class DenseModel:
    """Dense model whose states may be cached."""

    inputs: Mapping[str, Any]
    """Part of the key: model and number format. The windows, the machine and the code are added."""
    load_head: Callable[[], nn.Module]
    """Function that loads the output head on the device."""
    most_bytes: int
    """Largest size of all states in the cache."""
    events: list[str] = field(default_factory=list)
    """Messages about the states, for the record."""

    @contextlib.contextmanager
    def states(self, token_digest: str, batch: int) -> Iterator[DenseStates]:
        """Give the states on windows in batches of this size. They stay in the cache until the
        `with` block ends."""
        import torch  # slow to import

        inputs = {
            "model": dict(self.inputs),
            "tokens": token_digest,
            "batch": batch,
            "code": digest_source(__name__, forward.__name__),
            "threads": torch.get_num_threads(),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        folder = cache_dir() / PART / digests.of(inputs)[:32]
        with in_use(folder.name):
            yield DenseStates(folder, self)


class DenseStates:
    """Folder with a safetensors file for each batch. It appears only when it is complete."""

    def __init__(self, folder: Path, model: DenseModel) -> None:
        self.folder, self.model = folder, model

    def open(self) -> Iterator[Tensor] | None:
        """Read the states batch by batch [batch, seqlen, hidden], on the CPU. None: they are not in
        the cache.

        Check every file first, and delete all files if one is damaged.
        """
        if not self.folder.exists():
            return None
        try:
            expected = json.loads((self.folder / DIGESTS).read_text())
            files = [_file(self.folder, i) for i in range(len(expected))]
            damaged = next(
                (f for f, sha256 in zip(files, expected, strict=True) if digests.read(f) != sha256),
                None,
            )
        except (OSError, ValueError, TypeError):
            damaged = self.folder / DIGESTS
        if damaged:
            self.model.events.append(f"damaged in the cache ({damaged}), so deleted")
            with gc_lock():
                shutil.rmtree(self.folder, ignore_errors=True)
            return None
        # The least recently used states are deleted first.
        with contextlib.suppress(OSError):
            os.utime(self.folder)
        self.model.events.append("read from the cache")
        return map(_read, files)

    def accept(self, head: nn.Module, tokens: Tensor) -> bool:
        """Return whether states of these tokens can be cached. Delete the least recently used
        states to make space.

        head: output head of the dense model, [vocabulary, hidden].
        """
        if self.folder.exists():
            return False
        weight: Any = head.weight
        size = tokens.numel() * weight.shape[1] * weight.element_size()
        free = shutil.disk_usage(cache_dir()).free
        if size > self.model.most_bytes or not evict(PART, self.model.most_bytes - size):
            why = f"perplexity.dense_states_gb={self.model.most_bytes / 1e9:g}"
        elif size > free / 2:
            why = f"{free / 1e9:.3g} GB free on the disk"
        else:
            return True
        self.model.events.append(f"computed, not kept: {size / 1e9:.3g} GB needed, {why}")
        return False

    def keep(self, states: Iterable[Tensor]) -> Generator[Tensor]:
        """Yield the states unchanged, and publish them in the cache after the last."""
        from safetensors.torch import save  # imports torch

        with temporary_folder(PART) as workdir:
            folder = workdir / self.folder.name
            folder.mkdir()
            expected = []
            for i, batch in enumerate(states):
                content = save({STATES: batch.cpu().contiguous()})
                _file(folder, i).write_bytes(content)
                expected.append(hashlib.sha256(content).hexdigest())
                del content
                yield batch
            (folder / DIGESTS).write_text(json.dumps(expected))
            publish(folder, self.folder)
        self.model.events.append("computed and kept")


def _file(folder: Path, batch: int) -> Path:
    return folder / f"{batch:05d}.safetensors"


def _read(file: Path) -> Tensor:
    from safetensors.torch import load_file  # imports torch

    # A clone is aligned like a model's tensors, on which a product can depend, and does not map the
    # file.
    return load_file(file)[STATES].clone()
