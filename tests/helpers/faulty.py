"""A plug-in whose methods do what no method should, and runs that stand still in the middle of one."""

import time

import psutil

from helpers import runs

FAULTY = '''
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from methods.pruning.walk import Walk
from methods.contract import Needs, Outcome


class _Method:
    """Magnitude, and then something that no method should do."""

    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model, job):
        walk = Walk(model, job)
        for visit in walk:
            visit.prune(job.pattern.keep(visit.weight.abs()))
        self.spoil(model.model, job)
        return Outcome(model, frozenset(getattr(self, "declared", ())))


@dataclass(frozen=True)
class Raises(_Method):
    def spoil(self, model, job):
        raise ArithmeticError("the third layer is odd")


@dataclass(frozen=True)
class Nan(_Method):
    def spoil(self, model, job):
        model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")


@dataclass(frozen=True)
class Breaks(_Method):
    def spoil(self, model, job):
        model.layers[1].self_attn.q_proj.weight[0, :4] = 1


@dataclass(frozen=True)
class Touches(_Method):
    def spoil(self, model, job):
        model.norm.weight[0] += 1


@dataclass(frozen=True)
class Declares(Touches):
    declared = ("model.norm.weight",)


@dataclass(frozen=True)
class Dies(_Method):
    def spoil(self, model, job):
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)


@dataclass(frozen=True)
class Stops(_Method):
    """Stop its own process, or the fork server."""

    whom: str = "itself"

    def spoil(self, model, job):
        if self.whom == "itself":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif b"bench.execution.fork_server" in Path(f"/proc/{os.getppid()}/cmdline").read_bytes():
            os.kill(os.getppid(), signal.SIGSTOP)


@dataclass(frozen=True)
class Leaves(_Method):
    def spoil(self, model, job):
        sys.exit("this library was never meant to be called")


@dataclass(frozen=True)
class Waits(_Method):
    """Stands still while the file $GATE is there: while it prunes, or when its first record is to take its place."""

    at: str = "prune"

    def spoil(self, model, job):
        if self.at == "prune":
            return _stand()
        if not _gate().exists():
            return
        real = os.replace

        def replace(source, target):
            if Path(target).parent.name == "records":
                _stand()
            real(source, target)

        os.replace = replace


def _gate():
    return Path(os.environ.get("GATE", "/nowhere"))


def _stand():
    while _gate().exists():
        _gate().with_suffix(".reached").touch()
        time.sleep(0.02)
'''
SLOW = '''
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from methods import Job, Needs, Outcome, Settings, Trainer


@dataclass(frozen=True)
class Slow(Settings):
    """Dense training, a step at a time. While $GATE is there, each step waits a little."""

    name: ClassVar[str] = "slow"
    needs: ClassVar[Needs] = Needs.TRAINING

    def apply(self, model, job):
        trainer = Trainer("slow", model, job, self)
        gate = Path(os.environ.get("GATE", "/nowhere"))
        masks = {t: job.pattern.keep(model.get_submodule(t).weight.detach().abs()) for t in job.targets}

        def hook(step, total):
            if step >= 5 and gate.exists():
                gate.with_suffix(".reached").touch()
                time.sleep(0.1)
            return {}

        trainer.run(torch.optim.SGD(model.parameters(), lr=1e-3), teacher=False, hook=hook)
        def finish(model, targets):
            with torch.no_grad():
                for target in targets:
                    model.get_submodule(target).weight.masked_fill_(~masks[target], 0)
        names = frozenset(n for n, _ in model.named_parameters()) - {f"{t}.weight" for t in job.targets}
        return Outcome(trainer.finalize(finish), names, trainer.notes())
'''
NAMES = {
    n: f"faulty:{n.capitalize()}"
    for n in ["raises", "nan", "breaks", "touches", "declares", "dies", "stops", "leaves", "waits"]
}
PATIENCE_S = 180


def install(folder):
    """The plug-in, as if installed under `folder`."""
    return runs.distribution(folder, "faulty", FAULTY, methods=NAMES)


def install_slow(folder):
    """A plug-in with a training that is slow while the gate is there."""
    return runs.distribution(folder, "slowly", SLOW, methods={"slow": "slowly:Slow"})


def set_gate(tmp_path, monkeypatch):
    """A file at which `waits` stands still until it is gone."""
    path = tmp_path / "gate"
    path.touch()
    monkeypatch.setenv("GATE", str(path))
    return path


def until(true, what):
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def stopped_at(gate, command):
    """A run whose worker stands at the gate, and the worker."""
    run = runs.start(*command)
    until(gate.with_suffix(".reached").exists, "the gate")
    started = psutil.Process(run.pid).children(recursive=True)
    forked = [p for p in started if p.ppid() != run.pid]
    (worker,) = forked or [p for p in started if "bench.execution.worker" in p.cmdline()]
    return run, worker


def gone(*processes):
    return not psutil.wait_procs(processes, timeout=20)[1]
