"""What the documentation shows in Python runs, in the order in which it stands there."""

from __future__ import annotations

import html
import json
import os
import re
import runpy
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from PIL import Image
from support.cli import run_to_success
from support.demo import copy_demo
from support.examples import all_commands, examples_of
from support.threads import same_threads_after  # noqa: F401

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def demo_folder(demo_extracted, tmp_path_factory) -> Path:
    """A folder as after the demo, with fewer pictures."""
    folder = copy_demo(demo_extracted, tmp_path_factory.mktemp("docs") / "demo")
    run_to_success(folder, "fit-head --dataset demo", "score --dataset demo")
    return folder


def test_the_walk_through_runs(demo_folder, monkeypatch, capsys):
    text = (ROOT / "docs/python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 5
    monkeypatch.chdir(demo_folder)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), namespace)
    out = capsys.readouterr().out
    assert "<Features demo train, " in out
    accuracies = [float(line) for line in out.splitlines() if re.fullmatch(r"0?\.\d+|1\.0", line)]
    # Of twelve classes, learned from thirty pictures.
    assert len(accuracies) == 2 and min(accuracies) > 0.3


def test_stores_open_in_xarray_and_dask_without_our_code(demo_folder):
    store = next((demo_folder / "cache").glob("demo-train-*.zarr"))
    code = (
        "import sys, numpy as np, dask.array, xarray, zarr\n"
        f"path = {str(store)!r}\n"
        "rows = dask.array.from_zarr(path, component='activations')\n"
        "data = xarray.open_zarr(path, consolidated=False)\n"
        "assert rows.shape == data.activations.shape and data.activations.dims == ('row', 'fc7_column')\n"
        "some = data.activations.isel(row=slice(5, 9)).values\n"
        "assert np.array_equal(rows[5:9].compute(), some) and data.box_xyxy.dims == ('row', 'corner')\n"
        "assert not any(name.split('.')[0] == 'pipeline' for name in sys.modules)\n"
        "print(data.attrs['fingerprint'])\n"
    )
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=demo_folder, env=env)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()[:12] in store.name


PAGES = [
    *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")),
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_links_to_headings_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)
    for target, heading in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text):
        if "://" not in target and (not target or target.endswith(".md")):
            goal = (ROOT / page).parent / target if target else ROOT / page
            assert heading in anchors_of(goal), f"{page}: {target}#{heading}"


def anchors_of(page: Path) -> set[str]:
    """Names of the headings of a page, as MyST and GitHub make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    names = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


def test_the_words_of_pages_and_help_are_the_common_ones():
    ended = subprocess.run([sys.executable, ROOT / "tools/check_prose.py"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


def test_private_words_are_found_outside_of_code_alone():
    refused_in = runpy.run_path(str(ROOT / "tools/check_prose.py"))["refused_in"]
    found = list(refused_in("Rows lie `beside` it.\n\n```sh\nmend\n```\n\nOne job a\nclass is at hand."))
    assert found == [(7, "job a class", "per"), (8, "at hand", "available")]


def test_the_page_of_settings_is_that_of_the_code():
    made = runpy.run_path(str(ROOT / "docs/conf.py"))["settings_page"]()
    assert (ROOT / "docs/reference/settings.md").read_text() == made, "make docs writes it again"


def test_the_page_of_results_is_that_of_the_measured_files():
    writing = runpy.run_path(str(ROOT / "tools/write_results.py"))

    assert (ROOT / "docs/results.md").read_text() == writing["page"](), "run: python tools/write_results.py"


def test_the_documentation_is_built_without_a_warning(tmp_path):
    line = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "trees"]
    ended = subprocess.run([*line, ROOT / "docs", tmp_path / "site"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "site/reference/cli.html").read_text()
    assert "pipeline cache verify" in page or "cache-verify" in page
    for built in (tmp_path / "site").rglob("*.html"):
        assert not re.search("[\u2013\u2014](?=[a-z])", built.read_text()), f"{built.name}: a dash for an option"
    shown = html.unescape(re.sub("<[^>]+>", "", "\n".join(re.findall(r"<pre>(.*?)</pre>", page, re.S))))
    for words in all_commands():
        for line in examples_of(words):
            assert line in shown, f"not a code block: {line}"


DRAWING = runpy.run_path(str(ROOT / "tools/draw_docs_pictures.py"))
MADE = json.loads((ROOT / "docs/pictures/made.json").read_text())
MOST_LATE = timedelta(days=14)
"""By so much the pictures may be older than the last change of the code that draws them."""


def test_every_picture_of_the_documentation_is_one_that_was_drawn():
    files = {path.stem for path in (ROOT / "docs/pictures").glob("*.png")}
    assert files == set(MADE) == set(DRAWING["DRAWERS"]) == set(DRAWING["SOURCES"])
    for name, made in MADE.items():
        path = ROOT / f"docs/pictures/{name}.png"
        assert path.stat().st_size < 400_000
        with Image.open(path) as picture:
            assert picture.size == (made["width"], made["height"]), name


@pytest.mark.parametrize(
    "name", ["map", *(pytest.param(name, marks=pytest.mark.long) for name in ("ranking", "taught"))]
)
def test_pictures_of_the_documentation_are_as_wide_as_those_drawn_now(name, demo_folder, tmp_path):
    source = DRAWING[f"draw_{name}"](demo_folder)
    width, _ = DRAWING["shrink"](source, tmp_path / "picture.png")  # the height is that of the scene
    # Letters differ a little from machine to machine.
    assert width == pytest.approx(MADE[name]["width"], rel=0.03), f"run: python tools/draw_docs_pictures.py {name}"


@pytest.mark.parametrize("name", sorted(DRAWING["SOURCES"]))
def test_pictures_of_the_documentation_are_not_older_than_the_code_that_draws_them(name):
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("needs the history")
    assert all((ROOT / source).exists() for source in DRAWING["SOURCES"][name])
    changed = git("log", "-1", "--format=%cs", "--", *DRAWING["SOURCES"][name])
    late = date.fromisoformat(changed) - date.fromisoformat(MADE[name]["made"])
    assert late <= MOST_LATE, f"run: python tools/draw_docs_pictures.py {name}"
