"""State of the NVIDIA cards of this machine, from one query of nvidia-smi."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

DECIDES_NO_NUMBER = True

FIELDS = {
    "uuid": "uuid",
    "driver": "driver_version",
    "power_limit": "power.limit",
    "sm_clock": "clocks.sm",
    "memory_clock": "clocks.mem",
    "temperature_c": "temperature.gpu",
    "ecc": "ecc.mode.current",
    "mig": "mig.mode.current",
    "memory_used": "memory.used",
}
"""Fields of a record, and what nvidia-smi calls them. Values are its texts, with their units."""
ABSENT = ("", "N/A", "[N/A]", "[Not Supported]", "[Unknown Error]", "[GPU requires reset]")
"""Texts of nvidia-smi for a field that a card does not have."""
TIMEOUT_S = 20


def query() -> list[dict[str, str]]:
    """Return FIELDS of each card, or [] if nvidia-smi is missing or fails.

    A field that a card does not have is left out.
    """
    command = ("nvidia-smi", f"--query-gpu={','.join(FIELDS.values())}", "--format=csv,noheader")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return [_read_row(line) for line in done.stdout.splitlines() if line.count(",")]


def _read_row(line: str) -> dict[str, str]:
    values = (value.strip() for value in line.split(","))
    return {name: value for name, value in zip(FIELDS, values, strict=False) if value not in ABSENT}


def describe(device: str) -> dict[str, str]:
    """Return FIELDS of the card "cuda" or "cuda:N" without its id, or {} for a CPU or an unknown
    card.

    CUDA and nvidia-smi number cards differently, so the id decides. A part of a card (MIG) has
    another id, and is found if the machine shows one card.
    """
    cards = query() if device.startswith("cuda") else []
    if not cards:
        return {}
    import torch

    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    found = [card for card in cards if card.get("uuid") == uuid]
    if not found and len(cards) == 1:
        found = cards
    own = found[0] if found else {}
    return {name: value for name, value in own.items() if name != "uuid"}


def note(before: Mapping[str, str], device: str) -> dict[str, Any]:
    """Return the note of a timing on a card: its state before it, as of `describe`, and now. {} if
    that is unknown."""
    return {"card": {"before": dict(before), "after": describe(device)}} if before else {}


def driver_version() -> str:
    """Return the version of the driver, for example 550.54.15, or "" if it is unknown."""
    cards = query()
    return cards[0].get("driver", "") if cards else ""
