"""One way to the hub and to mirrors."""

from __future__ import annotations

DATA_ENV = "BENCH_DATA_DIR"
