"""Methods that do what no method should, and runs that stand still in the middle of one."""

import time

import psutil

from bench.system.cache import cache_dir
from helpers import plugins, runs

TOUCH = "model.model.norm.weight[0] += 1"
FAULTY = {
    "raises": 'raise ArithmeticError("the third layer is odd")',
    "nan": 'model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")',
    "breaks": "model.model.layers[1].self_attn.q_proj.weight[0, :4] = 1",
    "returns_model": "return model",
    "touches": TOUCH,
    "declares": TOUCH + '\nreturn Outcome(model, frozenset(["model.norm.weight"]))',
    "dies": 'print("last words", file=sys.stderr, flush=True)\nos._exit(3)',
    "leaves": 'sys.exit("this library was never meant to be called")',
    "stops": "stop(self.whom)",
    "waits": "wait(self.at)",
}
FIELDS = {"stops": 'whom: str = "itself"', "waits": 'at: str = "prune"'}
FUNCTIONS = '''
def stop(whom):
    """Stop the process itself, or the fork server."""
    if whom == "itself":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif b"bench.execution.fork_server" in Path(f"/proc/{os.getppid()}/cmdline").read_bytes():
        os.kill(os.getppid(), signal.SIGSTOP)


def wait(at):
    """Stand still while the file $GATE is there: now, or when the first record is written."""
    if at == "prune":
        stand()
    elif gate().exists():
        from bench.system import files

        class Standing:
            """The module os, which the runner puts back, with another `replace`."""

            def __getattr__(self, name):
                return getattr(os, name)

            def replace(self, source, target):
                if Path(target).parent.name == "records":
                    stand()
                os.replace(source, target)

        files.os = Standing()


def gate():
    return Path(os.environ.get("GATE", "/nowhere"))


def stand():
    while gate().exists():
        gate().with_suffix(".reached").touch()
        time.sleep(0.02)
'''
SLOW = '''
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from methods import Job, Needs, Outcome, Trainer, TrainingSettings


@dataclass(frozen=True)
class Slow(TrainingSettings):
    """Dense training, a step at a time. While $GATE is there, each step waits a little."""

    name: ClassVar[str] = "slow"
    needs: ClassVar[Needs] = Needs.TRAINING

    def apply(self, model, job):
        trainer = Trainer("slow", model, job, self)
        gate = Path(os.environ.get("GATE", "/nowhere"))
        linears = {t: model.get_submodule(t) for t in job.targets}
        masks = {t: job.pattern.keep(m.weight.detach().abs()) for t, m in linears.items()}

        def hook(step, total):
            if step >= 5 and gate.exists():
                gate.with_suffix(".reached").touch()
                time.sleep(0.1)
            return {}

        trainer.run(torch.optim.SGD(model.parameters(), lr=1e-3), hook=hook)
        def finish(model, targets):
            with torch.no_grad():
                for target in targets:
                    model.get_submodule(target).weight.masked_fill_(~masks[target], 0)
        targets = {f"{t}.weight" for t in job.targets}
        names = frozenset(n for n, _ in model.named_parameters()) - targets
        return Outcome(trainer.finalize(finish), names, trainer.notes())
'''
PATIENCE_S = 180


def install(folder):
    """The plug-ins, as if installed under `folder`."""
    runs.distribution(folder, "slowly", SLOW, methods={"slow": "slowly:Slow"})
    return plugins.install(folder, "faulty", FAULTY, FIELDS, FUNCTIONS)


def undisturbed(tmp_path, monkeypatch, **changes):
    """The records of the same run in this process, elsewhere, without a gate."""
    monkeypatch.delenv("GATE", raising=False)
    runs.own_cache(tmp_path / "calm", monkeypatch)
    runs.run_here(runs.small(tmp_path / "calm/r", **changes))
    return runs.contents(tmp_path / "calm/r")


def checkpoints():
    """Steps at which unfinished trainings were saved."""
    return sorted(
        int(p.name.removeprefix("step-")) for p in (cache_dir() / "training").glob("*/step-*")
    )


def until(true, what, patience=PATIENCE_S):
    end = time.monotonic() + patience
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
    return not psutil.wait_procs(processes, timeout=PATIENCE_S)[1]
