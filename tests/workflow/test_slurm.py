"""The workflow through SLURM, with the profile that the README names."""

from __future__ import annotations

import re

PROFILE = ("--profile", "profiles/slurm")
TARGET = "results/tiny_map.json"


def test_profile_adds_to_the_default_one(new_work):
    """No cluster is asked in a dry run."""
    planned = new_work.snakemake(TARGET, *PROFILE, "--dry-run")

    assert planned.code == 0, planned.output
    assert "pipeline extract --dataset tiny" in planned.output  # printshellcmds, of the default profile
    extract = re.search(r"rule extract:.*?resources: (.*?)\n", planned.output, re.DOTALL)[1]
    assert "mem_mb=4000" in extract and "runtime=720" in extract  # of all rules, of this one
