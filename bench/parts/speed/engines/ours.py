"""Products in torch: dense products of torch itself, and the native 2:4 kernel of this project."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.inputs import loading
from bench.parts.packed24 import cpu24, native
from bench.parts.packed24.integers24 import pack_rounded
from bench.parts.packed24.linear24 import Linear24, pack_head, swap_linears, use_dense_twins
from bench.parts.packed24.packing import pack
from bench.parts.speed.decoding import DecodingWork, decode_step, prefill_step
from bench.parts.speed.engines.contract import Contestant, Engine, Step, require_device
from bench.parts.speed.versions import DENSE, SPARSE, ModelVersions
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.targets import dense_weight


def _contestant(kind: str, side: str, model: nn.Module, step: Step) -> Contestant:
    make = decode_step(1, step.kv) if step.name == "decode" else prefill_step(1, step.prompt)
    work = make(model)
    notes: dict[str, Any] = {"graph": work.graph} if isinstance(work, DecodingWork) else {}
    if kind == "int4":
        linears = [module for module in model.modules() if isinstance(module, Linear24)]
        counts = Counter(one.kernel_weight.bits for one in linears if one.kernel_weight)
        notes["bits"] = {str(bits): count for bits, count in counts.items()}

    @torch.inference_mode()
    def logits(ids: Tensor) -> Any:
        return model(ids[None]).logits[0]

    return Contestant(kind, side, work, notes, _bytes_read(model), logits)


def _bytes_read(model: Any) -> int:
    """Return the bytes of weights that a decoding step reads. Of an embedding that is no head it
    reads a row."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tables -= {id(getattr(model.get_output_embeddings(), "weight", None))}
    packed = sum(m.nbytes for m in model.modules() if isinstance(m, Linear24))
    rest: int = sum(p.nbytes for p in model.parameters() if id(p) not in tables)
    return packed + rest


class Torch(Engine):
    """torch on any device: the dense model.

    Zeros are weights like others to it, so it has no 2:4 side.
    """

    kinds: ClassVar[dict[str, str]] = {"bf16": "none", "fp32": "none"}
    dtypes: ClassVar[dict[str, torch.dtype]] = {"bf16": torch.bfloat16, "fp32": torch.float32}

    def about(self) -> dict[str, Any]:
        return {"torch": torch.__version__}

    def contestants(
        self, versions: ModelVersions, step: Step, device: str, threads: int
    ) -> Iterator[Contestant]:
        folder, place = versions.folder(DENSE), torch.device(device)
        for kind, dtype in self.dtypes.items():
            model = loading.load(folder, Compute(device=place, dtype=dtype, threads=threads))
            yield _contestant(kind, DENSE, model, step)


class Native(Engine):
    """The kernel of this project on a CPU, 2:4 and dense.

    Activations are bfloat16. The head is on the kernel, too, and that of an integer model is int8.
    Weights whose width has no int4 kernel are int8, and notes count them.
    """

    kinds: ClassVar[dict[str, str]] = {"bf16": "none", "int8": "int8", "int4": "int4-rtn"}
    sparse: ClassVar[bool] = True

    def __init__(self) -> None:
        self._models: dict[tuple[ModelVersions, str], dict[str, nn.Module]] = {}

    def require(self, device: str) -> None:
        require_device(device, "cpu", "native")
        try:
            native.load()
        except native.NoKernel as why:
            raise UserError(f"--engine native has no kernel here: {why}") from None

    def about(self) -> dict[str, Any]:
        return {"kernel": native.source_digest(), "path": native.select_path(native.load())}

    def contestants(
        self, versions: ModelVersions, step: Step, device: str, threads: int
    ) -> list[Contestant]:
        out = []
        for kind in self.kinds:
            # Packing takes longer than a timing.
            sides = self._models.setdefault((versions, kind), {})
            if not sides:
                sides |= _sides(versions, kind)
            out += [_contestant(kind, side, model, step) for side, model in sides.items()]
        return out


def _sides(versions: ModelVersions, kind: str) -> dict[str, nn.Module]:
    """Return the models on the native kernel by side."""
    sides = {}
    if SPARSE in versions.sides:
        sides[SPARSE] = _on_kernel(versions.folder(SPARSE), versions.targets, kind)
    if SPARSE in sides and versions.is_sparse:
        # The weights of its dense version mean nothing.
        sides[DENSE] = use_dense_twins(copy.deepcopy(sides[SPARSE]))
    else:
        sides[DENSE] = _on_kernel(versions.folder(DENSE), versions.targets, kind, dense=True)
    return sides


def _on_kernel(
    folder: Path, targets: tuple[str, ...], kind: str, *, dense: bool = False
) -> nn.Module:
    """Load a 2:4 model, or a dense one, with its targets on the native kernel."""
    model = loading.load(folder, Compute(dtype=torch.bfloat16))
    weights = {name: dense_weight(model.get_submodule(name)) for name in targets}
    if kind == "bf16":
        plain = {
            n: cpu24.to_dense_kernel_layout(w.bfloat16()) if dense else pack(w, n)
            for n, w in weights.items()
        }
        return swap_linears(pack_head(model, kind), plain, engine="native")
    kinds = {n: kind if cpu24.takes(kind, w.shape[1]) else "int8" for n, w in weights.items()}
    packed = {
        n: cpu24.round_dense(w, kinds[n]) if dense else pack_rounded(w, kinds[n], n)
        for n, w in weights.items()
    }
    return swap_linears(pack_head(model), packed, engine="native")
