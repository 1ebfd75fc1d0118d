"""Check the result of a method against its input, tensor by tensor; check a folder against a
pattern."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.folder import Folder, dtype_name
from methods.model.targets import dense_weight, find_targets, require_fit

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from methods.contract.method import Constants
    from methods.model.low_rank_adapter import Term


CHECKED_AT_ONCE = 2**22
"""Number of weights whose finiteness is checked at once."""


class CheckFailed(Exception):
    """A result that breaks its pattern, or changed a tensor that it must not change."""


@dataclass(frozen=True)
class Layer:
    """Counts of one target."""

    weights: int
    zeros: int
    violations: int = 0
    negative_zeros: int = 0


@dataclass
class WeightCounts:
    """Counts of a whole model."""

    pattern: Pattern
    parameters: int = 0
    zeros: int = 0
    bytes: int = 0
    violations: int = 0
    negative_zeros: int = 0
    zeros_lost: int | None = None
    """Number of pruned weights that a quantizer made non-zero, or None without quantization after
    pruning."""
    layers: dict[str, Layer] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()
    """Names of declared tensors outside the targets that changed."""
    term_parameters: int = 0
    """Parameters of low-rank terms beside the targets. `parameters` has them, too."""
    term_bytes: int = 0
    """Bytes of low-rank terms, which are part of `bytes`."""
    term_bytes_packed: int = 0
    """Bytes of low-rank terms with rounded factors as integers and scales."""


def verify(
    before: Folder,
    after: Folder,
    pattern: Pattern,
    targets: Collection[str],
    declared: Collection[str],
    dtype: torch.dtype,
    *,
    counting: bool = False,
    frozen: bool = False,
) -> WeightCounts:
    """Compare two model folders, and count.

    Groups are counted by the bits of their weights. -0.0 counts as a non-zero, as in packed
    formats.

    Args:
        declared: names of tensors outside the targets that may change, or be new.
        counting: count broken groups, and zeros of `before` that `after` lost, instead of failing.
            For quantizers, whose rows show these numbers.
        frozen: no weight of a target may change, either, unless it is declared.

    Raises:
        CheckFailed: a broken pattern (unless `counting`), a weight that is not finite, a missing or
            new tensor, another shape or dtype, or a changed tensor that is neither a target nor
            declared.
    """
    # Here, so that the command line starts without it.
    import torch

    counts = WeightCounts(pattern)
    names = {t + ".weight": t for t in targets}
    missing = sorted(set(before) - set(after))
    if missing:
        raise CheckFailed(f"tensor {missing[0]} is missing")
    added = sorted(set(after) - set(before) - set(declared))
    if added:
        raise CheckFailed(f"tensor {added[0]} is new")
    changed = set()
    for name in set(after) - set(before):
        new = after.tensor(name)
        if new.is_floating_point() and new.dtype != dtype:
            raise CheckFailed(
                f"{name} is new and {dtype_name(new.dtype)}, not {dtype_name(dtype)} as the model"
            )
        _count(counts, name, new)
        changed.add(name)
    for name in before:
        if name in names:
            new, old = after.weight(names[name]), before.weight(names[name])
        else:
            new, old = after.tensor(name), before.tensor(name)
        if old.is_floating_point():
            old = old.to(dtype)
        if new.shape != old.shape or new.dtype != old.dtype:
            raise CheckFailed(
                f"{name} changed from {dtype_name(old.dtype)} {list(old.shape)} to "
                f"{dtype_name(new.dtype)} {list(new.shape)}"
            )
        _count(counts, name, new)
        if name in names:
            count_layer(counts, names[name], new)
            if frozen and name not in declared and not torch.equal(_bits(new), _bits(old)):
                raise CheckFailed(f"{name} changed, and its method only removes parts")
            if counting and not pattern.dense:
                filled = int(((old == 0) & (new != 0)).sum())
                counts.zeros_lost = (counts.zeros_lost or 0) + filled
        elif not torch.equal(_bits(new), _bits(old)):
            if name not in declared:
                raise CheckFailed(
                    f"{name} changed, and it is neither a target nor declared: the method must "
                    "name it in Outcome.changed "
                    "(methods.workshop.training.trainer.other_parameters returns the names for "
                    "one that trains all)"
                )
            changed.add(name)
    counts.changed = frozenset(changed)
    if counts.violations and not counting:
        raise CheckFailed(_describe_violations(counts))
    return counts


def _describe_violations(counts: WeightCounts) -> str:
    """Return how many groups break the pattern, and the target with most of them."""
    worst = max(counts.layers, key=lambda target: counts.layers[target].violations)
    return (
        f"{counts.pattern.broken_in(counts.violations)}, {counts.layers[worst].violations:,} of "
        f"them in {worst}"
    )


def count_terms(
    counts: WeightCounts, terms: Mapping[str, Term], folder: Folder, dtype: torch.dtype
) -> None:
    """Check the low-rank terms beside the weights of a folder, and add them to the counts of its
    targets.

    Raises:
        CheckFailed: a term of another linear than a target, of another shape or dtype, or with a
            value that is not finite.
    """
    for name, term in terms.items():
        b, a, bits = term
        shape = tuple(folder.weight(name).shape) if name in counts.layers else None
        if (len(b), a.shape[1]) != shape or {a.dtype, b.dtype} != {dtype}:
            raise CheckFailed(
                f"the low-rank term of {name} is {list(b.shape)} x {list(a.shape)} in "
                f"{dtype_name(a.dtype)}, which does not fit a target of {shape} in "
                f"{dtype_name(dtype)}"
            )
        if not bool(a.isfinite().all() & b.isfinite().all()):
            raise CheckFailed(f"the low-rank term of {name} contains NaN or infinity")
        groups = term.groups() if bits else ()
        for group in groups:
            if int(group.sort(-1).values.diff(dim=-1).ne(0).sum(-1).max()) >= 2 ** (bits or 0):
                raise CheckFailed(
                    f"the low-rank term of {name} has more values in a group than {bits} bits can "
                    "tell apart"
                )
        counts.term_parameters += term.parameters
        counts.term_bytes += a.nbytes + b.nbytes
        counts.term_bytes_packed += term.packed_bytes
    counts.parameters += counts.term_parameters
    counts.bytes += counts.term_bytes


def count_constants(counts: WeightCounts, constants: Constants, dtype: torch.dtype) -> None:
    """Add the constants in place of experts, and their rows of the router, to the counts.

    Raises:
        CheckFailed: a tensor in another number format, or with a value that is not finite.
    """
    for block, named in constants.items():
        for name, tensor in named.items():
            if tensor.dtype != dtype:
                raise CheckFailed(
                    f"{name} of the constants of block {block} is {dtype_name(tensor.dtype)}, not "
                    f"{dtype_name(dtype)} as the model"
                )
            _count(counts, f"{name} of the constants of block {block}", tensor)


FUNCTION_TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}
"""Largest relative change of logits by a transform, by the format of the weights, which rounds them
once more."""
ROUNDINGS = 3.0
"""Largest change in units of what one more rounding of the weights does, where that is more than
the tolerance."""
MOST_CHANGED = 0.3
"""Largest change however much rounding does. Two models that have nothing in common differ by more
than 1."""


def round_weights(model: nn.Module, targets: Iterable[str], stored: torch.dtype) -> None:
    """Round the targets' weights once more, in place, as a transform does: each input channel
    scaled at random and back."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for name in targets:
            weight = dense_weight(model.get_submodule(name))
            scales = torch.randn(weight.shape[1], generator=generator).mul(0.5).exp().to(weight)
            weight.copy_((weight * scales).to(stored) / scales)


def function_error(before: nn.Module, after: nn.Module, tokens: Tensor) -> float:
    """Return ||logits' - logits|| / ||logits - mean|| on tokens, int64 [sequences, seqlen]: how
    well a function is kept."""
    import torch

    with torch.inference_mode():
        old, new = (
            model(input_ids=tokens, use_cache=False).logits.double() for model in (before, after)
        )
    return float((new - old).norm() / (old - old.mean(-1, keepdim=True)).norm())


def check_function(before: nn.Module, after: nn.Module, tokens: Tensor, tolerance: float) -> float:
    """Return `function_error`, which the tolerance limits."""
    return require_same_function(function_error(before, after, tokens), tolerance)


def require_same_function(error: float, tolerance: float) -> float:
    """Return an error. Raise CheckFailed if it is larger than the tolerance, or no number."""
    if not error <= tolerance:
        raise CheckFailed(
            f"the logits changed by {error:.3g} of their size, and may change by {tolerance:.3g}"
        )
    return error


def _count(counts: WeightCounts, name: str, tensor: Tensor) -> None:
    """Count a tensor. Raise CheckFailed if it is not finite."""
    if tensor.is_floating_point():
        # isfinite takes two and a half times the memory of its tensor.
        for part in tensor.flatten().split(CHECKED_AT_ONCE):
            if not bool(part.isfinite().all()):
                raise CheckFailed(f"{name} contains NaN or infinity")
    counts.parameters += tensor.numel()
    counts.zeros += tensor.numel() - int(tensor.count_nonzero())
    counts.bytes += tensor.nbytes


def count_layer(counts: WeightCounts, target: str, weight: Tensor) -> None:
    """Count one target's weight [out, in] into `counts`."""
    bits = _bits(weight)
    # torch has no count_nonzero for float8.
    values = weight.float() if weight.element_size() == 1 else weight
    zeros = weight.numel() - int(values.count_nonzero())
    layer = Layer(
        weight.numel(),
        zeros,
        counts.pattern.violations(bits),
        int(bits.count_nonzero()) - weight.numel() + zeros,
    )
    counts.layers[target] = layer
    counts.violations += layer.violations
    counts.negative_zeros += layer.negative_zeros


def _bits(tensor: Tensor) -> Tensor:
    """View the bits as integers, so that -0.0 differs from 0.0."""
    import torch

    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(sizes[tensor.element_size()])


class WeightSource(Protocol):
    """A folder of safetensors or packed24."""

    @property
    def config(self) -> dict[str, Any]: ...
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    def weight(self, target: str) -> Tensor: ...


def verify_folder(
    folder: WeightSource, pattern: str, include: Iterable[str], exclude: Iterable[str]
) -> WeightCounts:
    """Count over the target linears of a folder.

    Raises:
        UserError: a damaged or quantized folder, an unsupported architecture, no linear that
            matches, or input widths that are not multiples of the group.
    """
    parsed = Pattern.parse(pattern)
    shapes = folder.shapes()
    targets = find_targets(folder.config, shapes, include, exclude)
    counts = WeightCounts(parsed)
    require_fit(parsed, shapes, targets, "--exclude ")
    for target in targets:
        count_layer(counts, target, folder.weight(target))
    return counts


def count_folder(
    after: Folder,
    pattern: Pattern,
    targets: Collection[str],
    changed: Collection[str],
    *,
    counting: bool = False,
) -> WeightCounts:
    """Count a model made elsewhere, which may differ from its original in any tensor, or raise
    CheckFailed as `verify` does.

    changed: names of tensors outside the targets that differ. counting: count broken groups instead
    of failing.
    """
    counts = WeightCounts(pattern, changed=frozenset(changed))
    names = {f"{t}.weight": t for t in targets}
    for name in after:
        tensor = after.weight(names[name]) if name in names else after.tensor(name)
        _count(counts, name, tensor)
        if name in names:
            count_layer(counts, names[name], tensor)
    if counts.violations and not counting:
        raise CheckFailed(_describe_violations(counts))
    return counts


CANDIDATES = ("1:4", "2:8", "2:4", "pairs:4:8", "4:8", "8:16", "3:4", "6:8")
"""Patterns from the sparsest to the densest."""


MIN_SHARE = 0.05
"""Smallest share of zeros that counts as an unstructured pattern."""


def name_pattern(weights: Iterable[Tensor], *, is_quantized: bool = False) -> tuple[Pattern, float]:
    """Return the pattern of a model's target weights [out, in], and the share of them that is zero.

    The pattern is the sparsest of CANDIDATES that holds in every target; else a whole percentage,
    if every target has that share of zeros; else dense. Quantized weights have zeros that no one
    pruned, so for them only n:m counts.
    """
    patterns = [Pattern.parse(text) for text in CANDIDATES]
    shares: list[float] = []
    zeros = total = 0
    for weight in weights:
        patterns = [p for p in patterns if p.fits(weight.shape[1]) and not p.violations(weight)]
        count = weight.numel() - int(weight.count_nonzero())
        # A share may be rounded in each row, as Pattern.violations allows.
        shares.append((count + weight.shape[0]) / weight.numel())
        zeros, total = zeros + count, total + weight.numel()
    share = zeros / max(1, total)
    if patterns:
        return patterns[0], share
    percent = round(100 * share)
    if not is_quantized and share >= MIN_SHARE and percent / 100 <= min(shares, default=0.0):
        return Pattern.parse(f"{percent}%"), share
    return Pattern.parse("dense"), share


def detect_pattern(folder: Folder) -> Pattern:
    """Return the sparsest of CANDIDATES that holds in every target linear of a folder, or raise
    UserError if none does."""
    found, _ = name_pattern(map(folder.weight, find_targets(folder.config, folder.shapes())))
    if str(found) not in CANDIDATES:
        raise UserError(
            f"no pattern of {', '.join(CANDIDATES)} holds in {folder.path}: name it with --pattern"
        )
    return found
