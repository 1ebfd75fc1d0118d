"""The answer of `bench pick` for other programs, and the board that it is about."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.comparing.result_set import ResultSet
from bench.reporting import board
from bench.reporting.candidates import Answer, Candidate
from methods.contract.errors import UserError

JSON_NAMES = {"bits": "bits_per_weight", "drop": "worst_drop"}
"""Names in JSON of a row's facts, where they are longer."""


def choose_board(
    model: str,
    results: ResultSet,
    protocol: str = "",
    device: str = "",
    by_calibration: bool = True,
) -> board.Board:
    """Return the first board that fits the protocol and device, or raise UserError. A model's main
    protocol comes first. by_calibration: as in `protocol.group_by_protocol`."""
    known, chosen = [], None
    for one in board.boards_of(model, results, device, by_calibration=by_calibration):
        known.append(one.protocol.label)
        if one.fits(protocol, device):
            chosen = one if protocol == known[-1] else chosen or one
            if protocol in ("", known[-1]):
                break
    if chosen is None:
        wanted = ", ".join(filter(None, (protocol, device)))
        raise UserError(
            f"{model} was not measured under {wanted!r}: its protocols are {'; '.join(known)}"
        )
    return chosen


def to_objects(answer: Answer) -> dict[str, Any]:
    """Return the whole answer for other programs."""
    not_measured = []
    for one in answer.unmeasured:
        lacks = [check.limit.noun for check in one.unmeasured]
        not_measured.append({"row": one.row.name, "lacks": lacks})
    return {
        "model": answer.table.title,
        "protocol": answer.table.protocol,
        "limits": {k: v for k, v in asdict(answer.limits).items() if v is not None},
        "candidates": answer.candidates,
        "meets": [_candidate_json(c) for c in answer.meets],
        "began_with": answer.began_with.row.name if answer.began_with else None,
        "nearest": _candidate_json(answer.nearest) if answer.nearest else None,
        "not_measured": not_measured,
        "pattern_broken": [row.name for row in answer.broken],
        "not_compared_with_the_best": answer.uncompared,
    }


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    facts = {JSON_NAMES.get(name, name): value for name, value in asdict(candidate.facts).items()}
    facts["tracks"] = {
        name: {"loss": one["loss"], "flips": one["flips"]} for name, one in facts["tracks"].items()
    }
    return {
        "row": candidate.row.name,
        **{k: candidate.row.filters[k] for k in ("method", "pattern", "quantizer")},
        "tied_with_best": candidate.tied,
        **{
            name: value
            for name, value in facts.items()
            if name not in ("compressed", "broken", "make", "export", "serve")
        },
        "fails": [c.limit.name for c in candidate.failed],
        "unsure": [c.limit.name for c in candidate.checks if c.unsure],
        "make": facts["make"],
        "export": facts["export"],
        "serve": facts["serve"],
    }
