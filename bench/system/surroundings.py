"""Settings of the whole process, which code of another package may change, and so change what other
rows measure or where results go."""

from __future__ import annotations

import contextlib
import json
import locale
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

DECIDES_NO_NUMBER = True


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Restore the settings after the block: environment, current folder, umask, locale, random
    generators, json, and the settings of numpy and torch, if they are imported."""
    environment, mask, folder = dict(os.environ), os.umask(0o77), os.open(".", os.O_RDONLY)
    os.umask(mask)
    language = locale.setlocale(locale.LC_ALL)
    state = random.getstate()
    # Other encoders of JSON replace these in place.
    owners = (json, json.JSONDecoder, json.JSONEncoder)
    contents = [dict(vars(owner)) for owner in owners]
    with contextlib.ExitStack() as stack:
        if "numpy" in sys.modules:
            stack.enter_context(_numpy())
        if "torch" in sys.modules:
            stack.enter_context(_torch())
        try:
            yield
        finally:
            for owner, content in zip(owners, contents, strict=True):
                _restore(owner, content)
            os.fchdir(folder)
            os.close(folder)
            os.umask(mask)
            for name in [name for name in os.environ if name not in environment]:
                del os.environ[name]
            os.environ.update(environment)
            locale.setlocale(locale.LC_ALL, language)
            random.setstate(state)


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

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    grad = torch.is_grad_enabled()
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
