"""Rows of linears that were timed one by one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.results.record import Record


def rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return a row for each shape, as `bench speed` prints it."""
    out = []
    for record in records:
        identity = record.identity
        head = {"what": "", "kind": identity.dtype, "tokens": identity.protocol.seqlen}
        if record.status != "ok":
            status = f"{record.status}: {record.reason}"
            out.append(head | {"what": identity.model, "status": status})
        out += [head | _row(shape) for shape in record.notes.get("shapes", [])]
    return out


def _row(shape: dict[str, Any]) -> dict[str, Any]:
    height, width = shape["shape"]
    what = {"what": f"{height} x {width} ({shape['count']} of them)"}
    if "skipped" in shape:
        return what | {"status": f"skipped: {shape['skipped']}"}
    low, high = shape["interval"]
    return what | {
        "dense_us": round(1e6 * shape["seconds"][shape["dense"]]["median"], 1),
        "2:4_us": round(1e6 * shape["seconds"][shape["sparse"]]["median"], 1),
        "speedup": f"{shape['speedup']:.2f} ({low:.2f} to {high:.2f})",
        "noise": f"{shape['noise']:.1%}",
        "limit": f"{shape['limit']:.2f}",
        "attained": f"{shape['attained']:.0%}",
        "dense_of_peak": f"{shape['dense_share_of_peak']:.0%}",
        "2:4_of_peak": f"{shape['sparse_share_of_peak']:.0%}",
        "over": shape["dense"],
        "status": "; ".join(shape["flags"]) or "ok",
    }
