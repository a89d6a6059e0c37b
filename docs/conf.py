"""Sphinx: the documentation as a site, by `make docs`. Pages are Markdown; the reference comes from the code."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import typer
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from open_set_fer import __version__  # noqa: E402
from open_set_fer.cli.main import app  # noqa: E402

project = "open-set-fer"
author = "the authors of open-set-fer"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc"]
highlight_language = "bash"
default_role = "code"  # single backticks in docstrings, as in Markdown

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebook is kept with its outputs; a test runs its code

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 80

html_theme = "pydata_sphinx_theme"
html_title = f"open-set-fer {__version__}"
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "navigation_with_keys": False,
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "footer_start": ["sphinx-version"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def commands() -> str:
    """The page of the command `osfer`, from its own help."""
    root = typer.main.get_command(app)
    groups = [root]
    for group in groups:
        for name, command in list(group.commands.items()):
            if command.hidden:
                del group.commands[name]
            command.short_help = (command.help or "").partition("\n\n")[0]  # else cut after some words
            if hasattr(command, "commands"):
                groups.append(command)
    return get_docs_for_click(obj=root, ctx=typer.Context(root), name="osfer", title="Commands")


def list_names(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make a list of a docstring's lines `name: meaning`, whose further lines are indented."""
    paragraphs = "\n".join(lines).split("\n\n")
    for place, text in enumerate(paragraphs):
        if all(re.match(r"[a-z_, ]+: |    ", line) for line in text.splitlines()) and not text.startswith(" "):
            items = re.sub(r"^(?! )([a-z_, ]+):", r"- **\1**:", text, flags=re.MULTILINE)
            paragraphs[place] = re.sub(r"^    ", "  ", items, flags=re.MULTILINE)
    lines[:] = "\n\n".join(paragraphs).split("\n")


def setup(app: Sphinx) -> None:
    """Connect what changes docstrings."""
    app.connect("autodoc-process-docstring", list_names)


generated = HERE / "generated"
generated.mkdir(exist_ok=True)
generated.joinpath("cli.md").write_text(commands(), "utf-8")
shutil.copy(HERE.parent / "examples/quickstart.ipynb", generated)
