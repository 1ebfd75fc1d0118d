"""Datasheets of cards."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class DeviceSpec:
    """The datasheet of a card."""

    name: str
    known_as: str
    """Pattern of the whole name that torch gives the card."""
    tflops: Mapping[str, float]
    """10^12 dense operations per second, by kind of weight."""
    tbps: float
    """Memory bandwidth in 10^12 bytes per second."""
    gb: float
    """Memory in 10^9 bytes."""
    source: str
    unverified: tuple[str, ...] = ()
    """Kinds on whose rate published lists disagree."""

    def peak(self, kind: str) -> float:
        """Return 10^12 operations per second. Weights without instructions of their kind are
        multiplied in bfloat16."""
        return self.tflops.get(kind, self.tflops["bf16"])

    def doubt(self, *kinds: str) -> str:
        """Return a note on those of some kinds whose rate is unverified, or ""."""
        found = [kind for kind in kinds if kind in self.unverified]
        return f"unverified for {self.name}: its rate in {', '.join(found)}" if found else ""


def device_specs() -> dict[str, DeviceSpec]:
    """Return the datasheets by name."""
    text = (resources.files("bench") / "assets" / "devices.toml").read_text()
    return {name: DeviceSpec(**about) for name, about in tomllib.loads(text).items()}


def find_spec(name: str) -> DeviceSpec | None:
    """Return the datasheet of the card that torch calls `name`, or None if it is of another
    card."""
    for spec in device_specs().values():
        if re.fullmatch(spec.known_as, name):
            return spec
    return None
