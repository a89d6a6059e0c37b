"""Write-ups of this suite's own studies.

Each folder has profiles, a template and `write_up.py` with `write(home, out)`, which returns the path of its text.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from open_set_fer import plugins
from open_set_fer.errors import SuiteError

STUDIES = {
    module.name.replace("_", "-"): (import_module(f"{__name__}.{module.name}").__doc__ or "").strip()
    for module in iter_modules(__path__)
    if module.ispkg
}
"""Names of the studies, with their question."""


def write_up(name: str) -> Callable[[Path, Path], Path]:
    """Function of a study that reads the stores of a home, writes into a folder and returns the path of the text."""
    if name not in STUDIES:
        raise SuiteError(f"unknown study {name!r}{plugins.nearest(name, STUDIES)}", f"known: {', '.join(STUDIES)}")
    write: Callable[[Path, Path], Path] = import_module(f"{__name__}.{name.replace('-', '_')}.write_up").write
    return write
