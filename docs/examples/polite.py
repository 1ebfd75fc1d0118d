"""An executor: where the workers of a run start."""

import os
from typing import IO

from bench.execution.processes import LocalExecutor, WorkerProcess


class Polite(LocalExecutor):
    """Processes of this machine that leave the processors to others."""

    def start(self, log: IO[str]) -> WorkerProcess:
        worker = super().start(log)
        os.setpriority(os.PRIO_PROCESS, worker.pid, 10)
        return worker
