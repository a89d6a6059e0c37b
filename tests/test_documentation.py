"""What README and docs/ say is there: methods, commands, Python, links; the site builds without a warning."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import open_set_fer as osf
from open_set_fer import plugins
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    if path.name != "CHANGELOG.md" and path.parent.name != "generated"  # made by docs/conf.py
]
SECTIONS = dict(re.findall(r"^## (\S+) \(version (\d+)\)$", (ROOT / "docs/methods.md").read_text("utf-8"), re.M))


@pytest.mark.parametrize("name", sorted(plugins.available(plugins.METHODS)))
def test_each_method_is_described_in_its_present_version(name):
    method = plugins.load(plugins.METHODS, name)
    if method.__module__.startswith("open_set_fer."):
        assert SECTIONS.get(name) == str(method.version)


def test_the_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", [path for path in PAGES if path.parent == ROOT], ids=lambda path: path.name)
def test_links_of_the_pages_outside_the_site_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `osfer ...` in the code of a page."""
    for line in re.findall(r"^(?:    .*|[^`\n].*)$", text, re.M) + re.findall(r"`(osfer [^`]*)`", text):
        code = line if line.startswith(("    ", "osfer ")) else ""
        for part in re.split(r"&&|;|\||\bdo\b", code.split(" #")[0]):
            if match := re.search(r"(?:^|\s|=\S+ )osfer (.*)", part):
                yield shlex.split(match[1].replace("...", ""))


def fault(words: list[str]) -> str:
    """What of a command the command line does not know: a subcommand or an option; '' if it is a real command."""
    command, has_options = typer.main.get_command(app), False
    for word in words:
        if word.startswith("-") and word != "-":
            has_options = True
            known = {name for parameter in command.params for name in parameter.opts} | {"--help", "--version"}
            if word.split("=")[0] not in known:
                return f"{command.name} has no {word}"
        elif hasattr(command, "commands") and not has_options and word.islower():
            if word not in command.commands:
                return f"no command {word}"
            command = command.commands[word]
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_those_of_the_command_line(page):
    assert [text for words in commands(page.read_text("utf-8")) if (text := fault(words))] == []


def test_a_command_that_is_not_there_is_found():
    assert [
        fault(words) for words in commands("    osfer runn\n    A=b osfer run --metod x && osfer data chek  # -z\n")
    ] == ["no command runn", "run has no --metod", "no command chek"]


PROFILES = [
    (page.name, number, text)
    for page in PAGES
    for number, text in enumerate(re.findall(r"```toml\n(base = .*?)```", page.read_text("utf-8"), re.DOTALL))
]


@pytest.mark.parametrize(("page", "number", "text"), PROFILES, ids=[f"{page}-{number}" for page, number, _ in PROFILES])
def test_profiles_are_valid(page, number, text, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(text, "utf-8")
    profile = load_profile(str(path))
    assert profile.backbone_settings()
    assert profile.closed_set_settings()
    assert all(profile.dataset(name) for name in profile.datasets)
    assert all(profile.method(label) for label in (*profile.methods, *profile.default_methods))


@pytest.mark.parametrize("page", ["README.md", "docs/guide/own.md"])
def test_python_calls_functions_that_are_there(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    calls = [
        node
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("osf.")
    ]
    assert calls
    for call in calls:
        function = getattr(osf, call.func.attr)
        inspect.signature(function).bind(*call.args, **{word.arg: word.value for word in call.keywords})


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for name in ("sphinx", "myst_nb", "pydata_sphinx_theme"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    command += [str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert 'id="osfer-evaluate"' in (tmp_path / "site/generated/cli.html").read_text("utf-8")
    assert 'id="open_set_fer.api.Task.measure"' in (tmp_path / "site/reference/python.html").read_text("utf-8")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium:
        assert violations(chromium, tmp_path / "site/index.html") == []


def violations(chromium: str, page: Path) -> list[str]:
    """What axe-core finds wrong with a page, wide and narrow."""
    sync_api = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for width in (1400, 390):
            tab = browser.new_page(viewport={"width": width, "height": 900})
            tab.goto(page.as_uri())
            found += [f"{fault['id']} at {width}" for fault in axe.Axe().run(tab).response["violations"]]
        browser.close()
    return found
