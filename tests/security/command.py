"""The command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def osfer(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `osfer` with its store in the home, unless `environment` names another."""
    command = [sys.executable, "-c", "from open_set_fer.cli.main import main; main()", *arguments]
    own = {"MLFLOW_TRACKING_URI": "", "OMP_NUM_THREADS": "1", "COLUMNS": "300", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, cwd=cwd, env=os.environ | own | environment, capture_output=True, text=True, timeout=600
    )
