"""The workflow's rules: names, parameters, and the commands and files of a whole run, by a dry run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
TARGETS = ("map.json", "heads.json", "compare.json", "sweep.json", "report.html")
# Two shares an extraction, a further layer of the same pass, and a trunk that is made from the dataset.
SETTINGS = {"layers": ["fc6"], "scatter": 2, "comparison": ["strong", "no-pretrain"]}


def rules_of(text: str) -> dict[str, dict[str, list[str]]]:
    """Names of the parameters of each rule in a file of the workflow, and patterns of its outputs."""
    found = {}
    for block in re.split(r"\n(?=rule )", text)[1:]:
        keywords = dict(re.findall(r"\n    (params|output):((?:\n {8}.*)+)", block))
        # In an f-string an expression has single braces, and stays as the name of a setting; wildcards have two.
        patterns = re.findall(r'"([^"]*/[^"]*)"', keywords["output"])
        plain = [re.sub(r"(?<!{){[\w.]*?(\w+)}", r"<\1>", pattern) for pattern in patterns]
        found[re.match(r"rule (\w+):", block)[1]] = {
            "output": [pattern.replace("{{", "{").replace("}}", "}") for pattern in plain],
            "params": re.findall(r"\n {8}(\w+)=", keywords.get("params", "")),
        }
    return found


def test_every_rule_keeps_its_outputs_and_parameters(golden):
    files = sorted((CHECKOUT / "stages").glob("*.smk"))

    golden.check_json("rules.json", {path.name: rules_of(path.read_text()) for path in files})


@pytest.fixture(scope="module")
def planned(draw, settings) -> tuple[Path, str]:
    """A work folder after a dry run of everything, and what it said."""
    folder, _ = draw()
    (folder / "workflow.yaml").write_text(yaml.safe_dump({**settings, **SETTINGS}, sort_keys=False))
    kept = [name for name in os.environ if not name.startswith(("PIPELINE_", "SNAKEMAKE_", "SLURM_", "SBATCH_"))]
    ended = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile"), "--cores", "2", "--dry-run"]
        + ["--printshellcmds", "--forceall", "--configfile", "workflow.yaml", "--"]
        + [f"results/tiny_{target}" for target in TARGETS],
        cwd=folder,
        env={**{name: os.environ[name] for name in kept}, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder, ended.stdout


def test_a_run_keeps_its_jobs_commands_and_files(golden, planned):
    folder, said = planned
    jobs = []
    for block in re.split(r"\n(?=(?:local)?rule )", said)[1:]:
        name = re.match(r"(?:local)?rule (\w+):", block)[1]
        output = re.search(r"\n    output: (.*)", block)[1]
        shell = re.search(r"\nShell command: (.*)", block)
        jobs.append({"rule": name, "output": output, "shell": shell[1] if shell else None})
    settings_files = sorted(p.relative_to(folder).as_posix() for p in (folder / "results/settings").iterdir())

    jobs.sort(key=lambda job: (job["rule"], job["output"]))
    golden.check_json("jobs.json", {"jobs": jobs, "settings": settings_files})
