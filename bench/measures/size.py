"""Size: parameters, non-zeros, bytes on disk, and bytes if packed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.inputs.kv_size import count_cached, head_dim_of
from bench.measures.contract import MeasureContext, Readings
from bench.results.identity import Protocol
from bench.results.record import Item, Reading
from bench.results.recount import BITMAP, bits_with_bitmap
from methods.contract.axes import ACTIVE, AXES
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs
from methods.contract.pattern import Pattern
from methods.model.families import FAMILIES
from methods.model.folder import read_config
from methods.workshop.quantizing.inputs import CACHE_KEY

if TYPE_CHECKING:
    from torch import nn

    from bench.results.derive import Items
    from bench.results.record import Record
    from bench.verify import WeightCounts

MADE_ELSEWHERE = "folder"
"""Name of the method whose bytes are those of its files."""


@dataclass(frozen=True)
class Size:
    """Parameters, non-zeros, sparsity, bytes on disk and in theory."""

    name: ClassVar[str] = "size"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric("parameters", "1", "", "weights", 0.0, counted=True, in_tables=False),
            Metric("nonzeros", "1", "lower", "weights", 0.0, counted=True, in_tables=False),
            Metric(
                "sparsity",
                "1",
                "higher",
                "proportion",
                0.0,
                1.0,
                aggregation="weighted mean",
                order=60,
                counted=True,
                capped_by_pattern=True,
                margin=0.001,
            ),
            Metric("bytes", "B", "lower", "bytes", 0.0, counted=True, in_tables=False),
            Metric(
                "bytes_packed",
                "B",
                "lower",
                "bytes",
                0.0,
                aggregation="own",
                order=80,
                on_board=True,
                counted=True,
                margin=0.005,
                from_storage=True,
            ),
            Metric(
                "bits_per_parameter",
                "1",
                "lower",
                "bits",
                0.0,
                order=81,
                on_board=True,
                counted=True,
                sorts_rows=False,
                from_storage=True,
            ),
            Metric(
                "bits_per_weight",
                "1",
                "lower",
                "bits",
                0.0,
                aggregation="own",
                order=82,
                on_board=True,
                counted=True,
                sorts_rows=False,
                from_storage=True,
            ),
            Metric(
                "bits_with_bitmap",
                "1",
                "lower",
                "bits",
                0.0,
                order=83,
                on_board=True,
                counted=True,
                sorts_rows=False,
                from_storage=True,
            ),
            Metric("embedding_parameters", "1", "", "weights", 0.0, counted=True, in_tables=False),
            Metric("embedding_bytes", "B", "lower", "bytes", 0.0, counted=True, in_tables=False),
            Metric("adapter_bytes", "B", "lower", "bytes", 0.0, counted=True, in_tables=False),
            Metric("relative_flops", "1", "lower", "ratio", 0.0, counted=True, in_tables=False),
            Metric("experts", "1", "lower", "experts", 0.0, order=85, counted=True),
            Metric("active_parameters", "1", "lower", "weights", 0.0, order=86, counted=True),
            Metric(
                "cache_bytes_per_token",
                "B",
                "lower",
                "bytes",
                0.0,
                order=84,
                counted=True,
                sorts_rows=False,
            ),
        )
    )
    needs: ClassVar[Needs] = Needs.NOTHING

    @property
    def protocol(self) -> Protocol:
        return Protocol(name="weights")

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Count the whole model for all readings but `sparsity` and `bits_per_weight`, which cover
        the targets.

        bytes_packed is computed, not measured. Each target stores n of every m values and a mask of
        one bit per weight, or per pair. The other tensors keep their size, except for a quantized
        embedding and head. Quantized weights count with the bytes of their stored tensors, and a
        model made elsewhere with those of its files. A model that breaks its pattern cannot be
        packed and counts as dense, as does an unstructured one.
        bits_with_bitmap is what that takes as non-zeros and a mask. The factors of low-rank terms
        count in every reading of bits and bytes. relative_flops is the arithmetic of the targets
        and their terms for one token, over that of the dense targets. cache_bytes_per_token is what
        rounded keys and values take, with scales. experts is the number of experts of a block of a
        mixture, and active_parameters what a token runs through. Items: sparsity of each layer.
        """
        counts = context.counts
        target_count = sum(layer.weights for layer in counts.layers.values())
        target_zeros = sum(layer.zeros for layer in counts.layers.values())
        item_bits = (
            8
            * (counts.bytes - counts.term_bytes)
            / max(1, counts.parameters - counts.term_parameters)
        )
        storage, sparsity = context.storage, target_zeros / max(1, target_count)
        bits, others = (storage.bits, storage.other_bits) if storage else (item_bits, 0.0)
        total, stored_bits = counts.bytes, item_bits
        if storage and storage.total is not None:
            total, stored_bits = storage.total, bits + others
        is_packed, pattern = storage is not None and storage.is_packed, counts.pattern
        bitmap = bits_with_bitmap(bits, others, sparsity)
        if pattern.m and not pattern.dense and not counts.violations and not is_packed:
            bits = bits * pattern.n / pattern.m + pattern.mask_bits
        bits += others
        if storage and is_packed:
            bits = bitmap = storage.all_bits
        packed = (
            total
            - target_count * (stored_bits - bits) / 8
            - counts.term_bytes
            + counts.term_bytes_packed
        )
        outer, outer_bytes = 0, 0
        if not context.is_dense:
            from bench.formats.stored import StoredFolder  # imports torch

            outer, outer_bytes = StoredFolder(context.folder).count_outer()
        packed -= outer * item_bits / 8 - outer_bytes
        beside = 8 * counts.term_bytes_packed / max(1, target_count)
        values: tuple[Reading, ...] = (
            Reading("parameters", counts.parameters),
            Reading("nonzeros", counts.parameters - counts.zeros),
            Reading("sparsity", sparsity),
            Reading("bytes", total),
            Reading("bytes_packed", math.ceil(packed)),
            Reading("bits_per_weight", bits + beside),
        )
        if counts.pattern.unstructured:
            values += (Reading(BITMAP, bitmap + beside),)
        if counts.term_bytes:
            flops = 1 - counts.pattern.share + counts.term_parameters / target_count
            values += (
                Reading("adapter_bytes", counts.term_bytes_packed),
                Reading("relative_flops", flops),
            )
        if outer:
            values += (
                Reading("embedding_parameters", outer),
                Reading("embedding_bytes", outer_bytes),
            )
        config = read_config(context.folder)
        cache = config.get(CACHE_KEY)
        if cache:
            values += (Reading("cache_bytes_per_token", cache_bytes(config, cache["bits"])),)
        values += of_experts(config, counts)
        items = tuple(
            Item(name, name, x.zeros / x.weights, float(x.weights))
            for name, x in counts.layers.items()
        )
        notes = {"claimed": storage.claimed} if storage and storage.claimed else {}
        return Readings(values, items, notes=notes)

    @staticmethod
    def derive(metric: str, record: Record, items: Items) -> float | None:
        """Derive the bits per weight, or the packed bytes from them. Return None if the record does
        not hold enough.

        A quantizer's bits are in its notes, which are in another record, so only the bytes follow
        from the bits. A model made elsewhere has the bits of its files: its packed bytes follow if
        nothing of it was packed.
        """
        known = {r.metric: r.value for r in record.readings if r.value is not None}
        if not {"parameters", "bytes", "sparsity"} <= known.keys() or not known["parameters"]:
            return None
        item_bits = 8 * known["bytes"] / known["parameters"]
        pattern = Pattern.parse(record.identity.pattern)
        packs = bool(pattern.m) and pattern.n < pattern.m
        targets = math.fsum(items.weights)
        beside = 8 * known.get("adapter_bytes", 0.0) / max(1.0, targets)
        if any(stage["name"] == MADE_ELSEWHERE for stage in record.key_inputs.get("stages", ())):
            if metric == "bytes_packed" and not packs:
                return known["bytes"]
            return None
        if metric == "bits_per_weight" and record.identity.quantizer == "none":
            # A model that breaks its pattern counts as dense.
            choices = [item_bits]
            if packs:
                choices.append(item_bits * pattern.n / pattern.m + pattern.mask_bits)
            return min(
                (bits + beside for bits in choices),
                key=lambda bits: abs(bits - known["bits_per_weight"]),
            )
        bits = known.get("bits_per_weight")
        if metric == "bytes_packed" and bits is not None:
            terms = 0
            if "relative_flops" in known:
                terms = round((known["relative_flops"] - 1 + pattern.share) * targets)
            # By factors that are rounded.
            saved = terms * item_bits / 8 - known.get("adapter_bytes", 0.0)
            saved += known.get("embedding_parameters", 0.0) * item_bits / 8
            saved -= known.get("embedding_bytes", 0.0)
            packed = known["bytes"] - targets * (item_bits - bits + beside) / 8 - saved
            # The sum of floats may be just above or below a whole number.
            return min(
                (math.ceil(packed - 1e-3), math.ceil(packed + 1e-3)),
                key=lambda n: abs(n - known["bytes_packed"]),
            )
        return None


def cache_bytes(config: Mapping[str, Any], bits: int) -> int:
    """Return the bytes of a token's keys and values in integers of `bits`, with a scale of 16 bits
    for each group."""
    from bench.inputs.rounded_cache import GROUPS  # imports transformers

    head_dim = head_dim_of(config)
    group = math.gcd(head_dim, GROUPS[bits] or head_dim)
    return count_cached(config) * (bits * group + 16) // (8 * group)


def of_experts(config: Mapping[str, Any], counts: WeightCounts) -> tuple[Reading, ...]:
    """Return the number of experts of a block, and the parameters that a token runs through: all
    but the linears of the experts that it is not sent to. Nothing for a model without experts."""
    family = FAMILIES.get(config.get("model_type", ""))
    active = config.get(ACTIVE)
    if not family or not family.experts or not active:
        return ()
    experts = AXES["experts"].size(family, config)
    inside = re.compile(rf"\.{re.escape(family.experts.path)}\.[0-9]+\.")
    routed = sum(layer.weights for name, layer in counts.layers.items() if inside.search(name))
    idle = routed * (experts - active) // experts
    return (Reading("experts", experts), Reading("active_parameters", counts.parameters - idle))
