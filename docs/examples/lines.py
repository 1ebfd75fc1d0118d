"""A tracker: it follows a run in a process of its own."""

import os
from collections.abc import Mapping


class Lines:
    """Lines of the file that LINES_FILE names."""

    def __init__(self) -> None:
        self.file = open(os.environ["LINES_FILE"], "a", encoding="utf-8")

    def start(
        self, artifact: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        self.file.write(f"start {name}\n")

    def curve(self, artifact: str, phase: str, step: int, figures: Mapping[str, float]) -> None:
        self.file.write(f"{phase} step {step}: {dict(figures)}\n")

    def metrics(self, artifact: str, values: Mapping[str, float]) -> None:
        self.file.writelines(f"{name} {value}\n" for name, value in values.items())

    def end(self, artifact: str, ok: bool) -> None:
        self.file.write("end\n" if ok else "failed\n")

    def close(self) -> None:
        self.file.close()
