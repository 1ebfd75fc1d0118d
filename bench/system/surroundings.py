"""Settings of the whole process, which code of another package may change, and so change what other
rows measure or where results go."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import locale
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

DECIDES_NO_NUMBER = True
MODULES = (
    "builtins", "hashlib", "io", "json", "json.decoder", "json.encoder", "locale", "math", "os",
    "os.path", "random", "struct", "time",
)  # fmt: skip
"""Modules whose functions others could replace, and every number or file goes through."""
CLASSES = (("json", "JSONDecoder"), ("json", "JSONEncoder"))
"""Classes of them whose methods others could replace."""
STREAMS = ("stdin", "stdout", "stderr", "__stdout__", "__stderr__")
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Restore the settings after the block: environment, current folder, umask, locale, random
    generators, streams, limits, timers, standard modules, and the settings of numpy and torch, if
    they are imported. In the block, a call that ends the process at once raises SystemExit, threads
    hold up no exit, and functions for the exit that fail end in a sentence."""
    environment, mask, folder = dict(os.environ), os.umask(0o77), os.open(".", os.O_RDONLY)
    os.umask(mask)
    language, recursion = locale.setlocale(locale.LC_ALL), sys.getrecursionlimit()
    state = random.getstate()
    modules = {name: importlib.import_module(name) for name in MODULES}
    owners: list[Any] = [*modules.values()]
    owners += [getattr(modules[module], name) for module, name in CLASSES]
    contents = [dict(vars(owner)) for owner in owners]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_process())
        if "numpy" in sys.modules:
            stack.enter_context(_numpy())
        if "torch" in sys.modules:
            stack.enter_context(_torch())
        try:
            yield
        finally:
            sys.modules |= modules
            for owner, content in zip(owners, contents, strict=True):
                _restore(owner, content)
            os.fchdir(folder)
            os.close(folder)
            os.umask(mask)
            for name in [name for name in os.environ if name not in environment]:
                del os.environ[name]
            os.environ.update(environment)
            locale.setlocale(locale.LC_ALL, language)
            sys.setrecursionlimit(recursion)
            random.setstate(state)


@contextlib.contextmanager
def _process() -> Iterator[None]:
    """Restore streams, limits and timers. Keep the block from ending the process or its exit."""
    streams = {name: getattr(sys, name) for name in STREAMS}
    limits = {which: resource.getrlimit(which) for which in LIMITS}
    register, start, end = atexit.register, threading.Thread.start, os._exit
    is_main = threading.current_thread() is threading.main_thread()
    alarm = signal.signal(signal.SIGALRM, _refuse_alarm) if is_main else None
    atexit.register = _register_guarded  # type: ignore[assignment]
    threading.Thread.start = _start_daemon  # type: ignore[assignment, method-assign]
    os._exit = partial(_refuse_exit, os.getpid(), end)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if is_main:
            signal.signal(signal.SIGALRM, alarm)
        atexit.register, os._exit = register, end
        threading.Thread.start = start  # type: ignore[method-assign]
        for name, stream in streams.items():
            setattr(sys, name, stream)
        for which, (soft, hard) in limits.items():
            _, now = resource.getrlimit(which)
            if now != hard:  # a hard limit that was lowered stays
                soft, hard = min(soft, now), now
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(which, (soft, hard))


def _refuse_alarm(*_: object) -> NoReturn:
    raise TimeoutError("its alarm went off")


def _refuse_exit(process: int, end: Callable[[int], NoReturn], code: int) -> NoReturn:
    """Raise SystemExit in place of os._exit. A fork ends as it asks. process: that of the block."""
    if os.getpid() != process:
        end(code)
    raise SystemExit(f"it called os._exit({code})")


_start, _register = threading.Thread.start, atexit.register


def _start_daemon(thread: threading.Thread) -> None:
    thread.daemon = True  # Python waits for the end of the others before it exits
    _start(thread)


def _register_guarded(work: Callable[..., Any], *values: Any, **named: Any) -> Callable[..., Any]:
    def guarded() -> None:
        try:
            work(*values, **named)
        except BaseException as fault:  # noqa: BLE001 (a plug-in may raise anything)
            what = f"{type(fault).__name__}: {' '.join(str(fault).split())}"
            print(f"bench: a plug-in failed at the exit of Python ({what})", file=sys.stderr)

    _register(guarded)
    return work


def _restore(owner: Any, content: dict[str, Any]) -> None:
    """Give a module or class the attributes of before. New ones may be submodules, and stay."""
    for name, value in content.items():
        if vars(owner).get(name) is not value:
            setattr(owner, name, value)


@contextlib.contextmanager
def _numpy() -> Iterator[None]:
    """Restore the settings of numpy that change a number or an error."""
    import numpy

    state, errors = numpy.random.get_state(), numpy.geterr()
    try:
        yield
    finally:
        numpy.random.set_state(state)
        numpy.seterr(**errors)


@contextlib.contextmanager
def _torch() -> Iterator[None]:
    """Restore the settings of torch, so that each model is measured under the same."""
    import torch

    threads, precision, grad = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.is_grad_enabled(),
    )
    state = torch.get_rng_state()
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        # A default device that is set, even the CPU, costs time in every call and breaks graphs.
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.set_rng_state(state)
