"""Write bench/assets/seed_noise.json: the noise between seeds of each kind of row, of the model of
results/ that has most.

python scripts/seed_noise.py

A model without rows of several seeds takes it. Only rows of published folders count, not those of
searches.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_records import known_variance

from bench.comparing.seed_noise_table import PUBLISHED

FILE = Path(__file__).parent.parent / "bench" / "assets" / PUBLISHED


def make() -> str:
    """Return the text of the file."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for metric, kinds in known_variance().draws.strongest().items():
        for kind, (model, noise) in kinds.items():
            out.setdefault(metric, {})[kind] = {
                "deviation": float(f"{noise.deviation:.3g}"),
                "freedom": float(f"{noise.freedom:.3g}"),
                "model": model,
            }
    return json.dumps(out, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
