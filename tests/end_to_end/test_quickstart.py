"""The notebook of examples/: its code runs, on the smallest profile; it is kept with its outputs."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples/quickstart.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_with_its_outputs_and_without_a_fault():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_its_code_runs(tmp_path, monkeypatch):
    pytest.importorskip("pytorch_ood")
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    names: dict[str, object] = {"__name__": "quickstart"}
    for cell in CELLS:
        code = (
            "".join(cell["source"]).replace("%matplotlib inline\n", "").replace('PROFILE = "demo"', 'PROFILE = "smoke"')
        )
        exec(compile(code, f"cell {cell['execution_count']}", "exec"), names)
    assert sorted(names["cells"]["method"]) == ["baseline", "energy", "knn"]
    assert names["cells"]["status"].eq("finished").all()
    assert (tmp_path / names["page"]).is_file()
