"""The guide's method in one file, run as printed there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[1] / "docs/guide/own.md"


def test_the_method_of_at_most_15_lines_keeps_the_contract(tmp_path, monkeypatch):
    section = GUIDE.read_text("utf-8").partition("## A method in one file")[2].partition("\n## ")[0]
    method, test = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(method.splitlines()) <= 15
    (tmp_path / "my_method.py").write_text(method, "utf-8")
    (tmp_path / "test_my_method.py").write_text(test, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        tests = [
            value for name, value in vars(importlib.import_module("test_my_method")).items() if name[:5] == "test_"
        ]
        assert len(tests) == 1
        tests[0]()
    finally:
        for name in ("my_method", "test_my_method"):
            sys.modules.pop(name, None)
