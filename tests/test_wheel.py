"""A wheel, installed elsewhere: the whole job runs in an empty folder, without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CONFIG = {
    "trunk": "random",
    "threads": 1,
    "grid": {"scales": [1.0], "overlap": 0.4},
    "heads": {"fca": {"hidden": [32], "max_epochs": [2, 1, 1]}},
}


def run(line: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIPELINE_DATA")}
    ended = subprocess.run(list(map(str, line)), cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From what is committed or about to be: what else lies in the folder is no part of a release.
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("needs a git checkout")
    for name in files.stdout.splitlines():
        source, target = ROOT / name, folder / "source" / name
        if source.is_file() and not name.startswith("tests/"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, folder / "source"], folder)
    return next(folder.glob("*.whl"))


def test_the_whole_job_runs_from_a_wheel_in_an_empty_folder(wheel, tmp_path):
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], tmp_path)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    # The libraries of this environment, but not its checkout: files that lead to that are not followed from here.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = tmp_path / "venv/bin/python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel], tmp_path)
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    where = run([python, "-c", "import pipeline; print(pipeline.__file__)"], folder).stdout
    assert where.startswith(str(site))

    program = tmp_path / "venv/bin/pipeline"
    assert "voc12" in run([program, "data", "list"], folder).stdout
    ended = run([program, "demo", "--config", "config.yaml"], folder)

    result = json.loads((folder / "results/demo_map.json").read_text())
    assert result["mAP"] > 0 and "next: pipeline serve" in ended.stderr
    assert "<!doctype html>" in (folder / "results/demo_report.html").read_text()
    again = run([program, "demo", "--config", "config.yaml"], folder)
    assert again.stderr.count("complete, the trunk does not run") == 2


def test_a_wheel_is_typed_and_has_all_that_is_no_code(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "py.typed",
        "views/report/template.html",
        "views/serve/page.html",
        "trunk/weights/alexnet64.safetensors",
    ):
        assert f"pipeline/{name}" in names
    assert any(name.endswith("share/pipeline/data_manifests/voc12.yaml") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
