"""Marks of cells that are being computed: results/<key>.started, left behind only by a process that died in the cell."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path


def mark_path(results: Path, key: str) -> Path:
    """The mark of a cell that is being computed."""
    return results / f"{key}.started"


def write_mark(path: Path) -> None:
    """Say that this process computes the cell."""
    content = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    path.write_text(json.dumps(content), "utf-8")


def read_mark(path: Path) -> str:
    """Who left the mark: 'process 12 on host, since 14:03:05'; '' where there is none."""
    try:
        mark = json.loads(path.read_text("utf-8"))
        since = time.strftime("%F %T", time.localtime(mark["time"]))
        return f"process {mark['pid']} on {mark['host']}, since {since}"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
