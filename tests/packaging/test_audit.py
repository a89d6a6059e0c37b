""".ci/audit: what it says where pip-audit found something, found nothing, and could not look."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / ".ci/audit"
SKIPPED = {"name": "a", "skip_reason": "Dependency not found on PyPI"}
SOUND = {"name": "b", "version": "1", "vulns": []}
FAULT = {"id": "CVE-1", "fix_versions": ["2.1"], "aliases": [], "description": ""}


@pytest.mark.parametrize(
    ("answer", "words", "status"),
    [
        ([SKIPPED, SKIPPED], "NOT DONE: none of 2 packages was looked up", 0),
        ([SKIPPED, SOUND], "1 packages looked up, 1 not, 0 vulnerabilities known", 0),
        ([SOUND | {"vulns": [FAULT]}], "b 1: CVE-1 (2.1)", 1),
        ([SOUND | {"vulns": [FAULT | {"fix_versions": []}]}], "no fixed version yet", 0),
        (None, "NOT DONE: no network", 0),
    ],
)
def test_audit(tmp_path, answer, words, status):
    says = f"print({json.dumps(json.dumps({'dependencies': answer}))})" if answer else "sys.exit('no network')"
    (tmp_path / "pip_audit.py").write_text(f"import sys\n{says}\n")
    done = subprocess.run(
        [sys.executable, str(AUDIT)], env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert words in done.stdout
    assert done.returncode == status, done.stderr
