"""The device that a run computes on."""

from __future__ import annotations

import os

import torch

from open_set_fer.errors import SuiteError


def choose_device(name: str, threads: int | None = None) -> torch.device:
    """'auto' is a GPU where there is one; `threads`: of the CPU, for torch. SuiteError: it does not compute here."""
    if threads is not None:
        torch.set_num_threads(threads)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    fix = f"choose among: {', '.join(['auto', 'cpu', *['cuda'] * (gpus > 0), *(f'cuda:{i}' for i in range(gpus))])}"
    try:
        device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise SuiteError(f"no kind of device is named {name!r}", fix) from error
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SuiteError(f"device {name!r} does not compute on this machine", fix) from error
    return device
