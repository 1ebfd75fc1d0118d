"""The runner trusts no method: what it wrote is compared with what it was given, tensor by tensor, folder by folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.errors import UserError
from methods.folder import Folder
from methods.pattern import Pattern
from methods.targets import family_of, find_targets, require_fit


class BrokenPromise(Exception):
    """The artifact is not what the method promised."""


@dataclass(frozen=True)
class Layer:
    weights: int
    zeros: int
    violations: int = 0
    negative_zeros: int = 0


@dataclass
class Verdict:
    """What the check counted."""

    pattern: Pattern
    parameters: int = 0
    zeros: int = 0
    bytes: int = 0
    violations: int = 0
    negative_zeros: int = 0
    zeros_lost: int | None = None
    """Weights that a pruner had masked and a quantizer filled again; None where there was no such pair."""
    layers: dict[str, Layer] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()
    """Tensors outside the targets that differ, as declared."""


def verify(
    before: Folder,
    after: Folder,
    pattern: Pattern,
    targets: Collection[str],
    declared: Collection[str],
    dtype: torch.dtype,
    *,
    counting: bool = False,
) -> Verdict:
    """Compare two model folders and count.

    A group counts as violated by the bits of its weights: a -0.0 takes a place like any number, since a packer that
    looks at bits would see it as one.

    Args:
        counting: groups that break the pattern are a finding, and so are zeros of `before` that are none in `after`:
            a quantizer is shown with what it breaks, while a method has to keep its promise.

    Raises:
        Broken: the pattern does not hold (unless `counting`), a weight is not finite, a tensor appeared, vanished, changed shape or dtype,
            or changed though it is neither a target nor declared.
    """
    verdict = Verdict(pattern)
    transposed = family_of(before.config).transposed
    names = {t + ".weight": t for t in targets}
    if gone := sorted(set(before) - set(after)):
        raise BrokenPromise(f"tensor {gone[0]} is gone")
    if new := sorted(set(after) - set(before)):
        raise BrokenPromise(f"tensor {new[0]} is new")
    touched = set()
    for name in before:
        is_, was = after.tensor(name), before.tensor(name)
        was = was.to(dtype) if was.is_floating_point() else was
        if is_.shape != was.shape or is_.dtype != was.dtype:
            raise BrokenPromise(f"{name} was {was.dtype} {list(was.shape)} and is {is_.dtype} {list(is_.shape)}")
        if is_.is_floating_point() and not bool(is_.isfinite().all()):
            raise BrokenPromise(f"{name} holds NaN or infinity")
        zeros = is_.numel() - int(is_.count_nonzero())
        verdict.parameters += is_.numel()
        verdict.zeros += zeros
        verdict.bytes += is_.nbytes
        if name in names:
            count(verdict, names[name], is_.T if transposed else is_)
            if counting and not pattern.dense:
                filled = int(((was == 0) & (is_ != 0)).sum())
                verdict.zeros_lost = (verdict.zeros_lost or 0) + filled
        elif not torch.equal(_bits(is_), _bits(was)):
            if name not in declared:
                raise BrokenPromise(f"{name} is no target and was not declared, yet it changed")
            touched.add(name)
    verdict.changed = frozenset(touched)
    if verdict.violations and not counting:
        raise BrokenPromise(f"{verdict.violations} groups break {pattern}")
    return verdict


def count(verdict: Verdict, target: str, weight: Tensor) -> None:
    """Add one layer's weight [out, in] to a verdict."""
    bits = _bits(weight)
    values = weight.float() if weight.element_size() == 1 else weight  # torch counts no float8
    zeros = weight.numel() - int(values.count_nonzero())
    layer = Layer(
        weight.numel(), zeros, verdict.pattern.violations(bits), int(bits.count_nonzero()) - weight.numel() + zeros
    )
    verdict.layers[target] = layer
    verdict.violations += layer.violations
    verdict.negative_zeros += layer.negative_zeros


def _bits(tensor: Tensor) -> Tensor:
    """The same bits as integers, so that -0.0 differs from 0.0."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(sizes[tensor.element_size()])


def verify_folder(folder: Folder, pattern: str, include: Iterable[str], exclude: Iterable[str]) -> Verdict:
    """Count over the linears of a folder.

    Raises:
        UserError: no safetensors, quantized, an architecture not taught here, or widths that the pattern
            does not divide.
    """
    wanted = Pattern.parse(pattern)
    shapes = folder.shapes()
    targets = find_targets(folder.config, shapes, include, exclude)
    transposed = family_of(folder.config).transposed
    verdict = Verdict(wanted)
    require_fit(wanted, folder.config, shapes, targets, "--exclude ")
    for target in targets:
        weight = folder.tensor(target + ".weight")
        count(verdict, target, weight.T if transposed else weight)
    return verdict


CANDIDATES = ("1:4", "2:8", "2:4", "4:8", "8:16", "3:4", "6:8")
"""From the sparsest to the densest."""


def detect_pattern(folder: Folder) -> Pattern:
    """The sparsest of CANDIDATES that every linear of a folder keeps.

    Raises:
        UserError: none of them holds.
    """
    shapes = folder.shapes()
    patterns = [Pattern.parse(text) for text in CANDIDATES]
    transposed = family_of(folder.config).transposed
    for target in find_targets(folder.config, shapes):
        weight = folder.tensor(target + ".weight")
        weight = weight.T if transposed else weight
        patterns = [p for p in patterns if p.fits(weight.shape[1]) and not p.violations(weight)]
    if not patterns:
        raise UserError(f"no pattern of {', '.join(CANDIDATES)} holds in {folder.path}: name it with --pattern")
    return patterns[0]
