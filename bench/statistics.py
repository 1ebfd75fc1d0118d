"""Comparing two rows that were measured on the same items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.judging.paired import studentized
from bench.store import Record, Store
from methods.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


class Ratio(NamedTuple):
    """a over b, with the interval that covers it with 1 - alpha."""

    value: float
    low: float
    high: float
    seeds: int
    clusters: int
    p: float
    """Two-sided, of no difference."""


def perplexity_ratio(
    a: Mapping[int | None, pd.DataFrame], b: Mapping[int | None, pd.DataFrame], alpha: float = 0.05
) -> Ratio:
    """exp of the difference in mean NLL, paired by window, over articles within seeds.

    a, b: items by seed; a row without seeds (None: the same model whatever the seed) meets every seed of the other.
    The interval is bench.judging.paired.studentized's.

    Raises:
        UserError: no seed in common, or other windows.
    """
    seeds = _shared(a, b)
    pairs = [_by_cluster(a.get(s, a.get(None)), b.get(s, b.get(None))) for s in seeds]
    differences = np.stack([d for d, _ in pairs])  # [seeds, clusters]
    found = studentized(differences, pairs[0][1], alpha)
    value, low, high = (float(np.exp(x)) for x in (found.value, found.low, found.high))
    return Ratio(value, low, high, len(seeds), found.n, found.p)


def _shared(a: Mapping[int | None, object], b: Mapping[int | None, object]) -> list[int | None]:
    if None in a and None in b:
        return [None]
    seeds = set(b) if None in a else set(a) if None in b else set(a) & set(b)
    if not seeds:
        raise UserError(f"nothing to pair: one row has seeds {sorted(map(str, a))}, the other {sorted(map(str, b))}")
    return sorted(seeds, key=str)


def _by_cluster(a: pd.DataFrame | None, b: pd.DataFrame | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of NLL differences, and tokens, by article."""
    assert a is not None and b is not None
    both = a.merge(b, on=["item_id", "cluster_id", "weight"], suffixes=("_a", "_b"), validate="one_to_one")
    if len(both) != len(a) or len(both) != len(b):
        raise UserError("the two rows were measured on other windows: they cannot be paired")
    both["difference"] = both["value_a"] - both["value_b"]
    sums = both.groupby("cluster_id", sort=True)[["difference", "weight"]].sum()
    return sums["difference"].to_numpy(), sums["weight"].to_numpy()


def items(store: Store, method: str, quantizer: str = "none") -> dict[int | None, pd.DataFrame]:
    """A method's perplexity items by seed, from the newest records of a results folder.

    Raises:
        UserError: no such row, or rows under several protocols.
    """
    from bench.table import newest

    found: dict[int | None, Record] = {}
    digests = set()
    for record in newest(store):
        slot = record.slot
        asked = (slot["method"], slot["quantizer"], slot["measure"]) == (method, quantizer, "perplexity")
        if asked and record.status == "ok":
            digests.add(record.token_digest)
            found[record.slot["seed"]] = record
    if not found or len(digests) > 1:
        why = "has no perplexity" if not found else "has perplexities on several corpora"
        raise UserError(f"{method!r} {why} in {store.root}: see bench report --results {store.root}")
    return {seed: store.items(record) for seed, record in found.items()}
