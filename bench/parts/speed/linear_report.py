"""Linears timed one by one: rows, and a figure of speedups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.reporting.drawing import LIGHT, choose_colors, new_figure, save_figure
from bench.results.record import Record
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


def draw(records: Sequence[Record], file: Path) -> Path:
    """Draw speedups over tokens, a panel for each kind of weight: with their intervals, the
    roofline limit dashed."""
    timed: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for shape in record.notes.get("shapes", []):
            if "speedup" in shape:
                timed.setdefault(shape["kind"], []).append(shape)
    if not timed:
        raise UserError("nothing to draw: no shape was timed")
    figure, axes = new_figure(300 * len(timed), 245, columns=len(timed))
    for (kind, of_kind), axis in zip(timed.items(), axes[0], strict=True):
        _draw_lines(axis, of_kind)
        axis.axhline(1, color=LIGHT["soft"], linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set(title=f"{kind}: dense / 2:4, limit dashed", xlabel="tokens")
    axes[0][-1].legend()
    device = records[0].notes.get("device", records[0].identity.device)
    title = f"{records[0].identity.model} · {device}"
    figure.suptitle(title, x=0.01, ha="left")
    return save_figure(figure, file, title)


def _draw_lines(axis: Axes, timed: Sequence[dict[str, Any]]) -> None:
    """Draw a line for each shape."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in timed:
        lines.setdefault(f"{row['shape'][0]} x {row['shape'][1]}", []).append(row)
    for color, (shape, unsorted) in zip(choose_colors(len(lines)), lines.items(), strict=True):
        line = sorted(unsorted, key=lambda row: row["tokens"])
        tokens = [row["tokens"] for row in line]
        lows, highs = zip(*(row["interval"] for row in line), strict=True)
        axis.vlines(tokens, lows, highs, color=color)
        speedups = [row["speedup"] for row in line]
        axis.plot(tokens, speedups, "o-", color=color, markersize=4, label=shape)
        limits = [row["limit"] for row in line]
        axis.plot(tokens, limits, color=color, linestyle="--", linewidth=0.8)
