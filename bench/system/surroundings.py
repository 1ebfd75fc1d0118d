"""Settings of the whole process, which code of another package may change, and so change what other
rows measure or where results go."""

from __future__ import annotations

import contextlib
import hashlib
import json
import locale
import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

DECIDES_NO_NUMBER = True


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Restore the settings after the block: environment, current folder, umask, locale, the search
    path, random generators, json, hashlib, and the settings of numpy and torch, if they are
    imported."""
    with contextlib.ExitStack() as stack:
        later = stack.callback
        folder, mask = os.open(".", os.O_RDONLY), os.umask(0o77)
        os.umask(mask)
        later(os.close, folder)
        later(os.fchdir, folder)
        later(os.umask, mask)
        later(_restore_environment, dict(os.environ))
        later(_restore_path, list(sys.path))
        later(locale.setlocale, locale.LC_ALL, locale.setlocale(locale.LC_ALL))
        later(random.setstate, random.getstate())
        if "numpy" in sys.modules:
            import numpy

            later(numpy.random.set_state, numpy.random.get_state())
            later(numpy.seterr, **numpy.geterr())
        if "torch" in sys.modules:
            _restore_torch(later)
        # Other encoders of JSON replace these in place. Each key is a digest.
        for owner in (json, json.JSONDecoder, json.JSONEncoder, hashlib):
            later(_restore, owner, dict(vars(owner)))
        yield


def _restore_environment(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _restore_path(before: list[str]) -> None:
    """Put back what is gone from the search path. What is new stays: a plug-in may import more."""
    sys.path.extend(place for place in before if place not in sys.path)


def _restore(owner: Any, content: dict[str, Any]) -> None:
    """Give a module or class the attributes of before. New ones may be submodules, and stay."""
    for name, value in content.items():
        if vars(owner).get(name) is not value:
            setattr(owner, name, value)


def _restore_torch(later: Callable[..., Any]) -> None:
    """Restore the settings of torch later, so that each model is measured under the same."""
    import torch

    later(torch.set_rng_state, torch.get_rng_state())
    later(torch.set_num_threads, torch.get_num_threads())
    later(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    later(torch.set_grad_enabled, torch.is_grad_enabled())
    later(torch.set_default_dtype, torch.get_default_dtype())
    later(_restore_device, torch.get_default_device())
    later(
        torch.use_deterministic_algorithms,
        torch.are_deterministic_algorithms_enabled(),
        warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _restore_device(device: Any) -> None:
    """Set torch's default device. One that is set, even the CPU, costs time in every call and
    breaks graphs."""
    import torch

    if torch.get_default_device() != device:
        torch.set_default_device(None if device.type == "cpu" else device)
