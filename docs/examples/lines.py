"""A tracker, which follows a run in a separate process."""

import os
from collections.abc import Mapping
from pathlib import Path


class Lines:
    """Lines of the file that LINES_FILE names."""

    def start(
        self, artifact: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        self.write(f"start {name}")

    def curve(self, artifact: str, phase: str, step: int, figures: Mapping[str, float]) -> None:
        self.write(f"{phase} step {step}: {dict(figures)}")

    def metrics(self, artifact: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.write(f"{name} {value}")

    def end(self, artifact: str, ok: bool) -> None:
        self.write("end" if ok else "failed")

    def close(self) -> None:
        self.write("closed")

    def write(self, line: str) -> None:
        with Path(os.environ["LINES_FILE"]).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
