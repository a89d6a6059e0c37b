"""Whether a process is still there."""

from __future__ import annotations

import time
from pathlib import Path


def alive(pid: int, patience: float = 10) -> bool:
    """Whether it runs after `patience` seconds; one that has ended and waits to be collected does not."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True
