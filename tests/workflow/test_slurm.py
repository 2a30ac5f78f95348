"""The workflow through SLURM, with the profile that the README names."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from support.torture import TORTURE
from support.workflow import TARGET, Work, copy_work, make_work

PROFILE = ("--profile", "profiles/slurm")
LOCAL_RULES = {"evaluate", "map"}


def stores_in_bytes(work) -> dict[str, bytes]:
    """Every file of every store."""
    cache = work.path / "cache"
    return {str(p.relative_to(cache)): p.read_bytes() for p in sorted(cache.glob("*.zarr/**/*")) if p.is_file()}


def ended_jobs(output: str) -> dict[str, tuple[str, str]]:
    """Rule and end of each SLURM job of a run, by its id, as the controller has them."""
    run = re.search(r"SLURM run ID: (\S+)", output)[1]
    command = ["squeue", "--noheader", "--states=all", f"--name={run}", "--format=%i %k %T"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.splitlines()
    rows = [line.split() for line in lines]
    return {job: (re.match(r"rule_(\w+?)_wildcards_", comment)[1], state) for job, comment, state in rows}


# Where no job ended since it asked last, the plugin waits ten seconds longer.
ASK_OFTEN = """
import sys
if "profiles/slurm" in sys.orig_argv:
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
    RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 1.0, lambda self, seconds: None)
"""


@pytest.fixture
def begun(first_run, tmp_path) -> Work:
    """A work folder in which nothing ran; in the short form, nothing for ``val`` and no head."""
    if TORTURE:
        return make_work(tmp_path / "work")
    work = copy_work(first_run[0], tmp_path / "work")
    for pattern in ("cache/*val*", "cache/*/*val*", "results/heads/*", "results/scores/*", "results/runs/*"):
        for path in work.path.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (work.path / TARGET).unlink()
    shutil.rmtree(work.path / ".snakemake")  # it knows ``train`` as made without shares, and would make it again
    return work


@pytest.mark.timeout(900)
def test_run_through_slurm_ends_with_the_bytes_of_a_local_run(slurm_cluster, first_run, begun):
    """The long form, ``PIPELINE_TORTURE=1``, also makes what is of ``train``, and shares in jobs of their own."""
    local, local_run = first_run
    expected = [job for job in local_run.jobs if TORTURE or not job.endswith(" train")]
    if TORTURE:
        begun.settings.append("scatter=2")
        shares = [f"{rule} {split}" for rule in ("patches_share", "extract_share") for split in ("train", "val")]
        expected += [*shares, "score_share val fca"] * 2

    often = "--slurm-init-seconds-before-status-checks=1"
    finished = begun.snakemake(TARGET, *PROFILE, often, sitecustomize=ASK_OFTEN, timeout_s=600)

    assert finished.code == 0, finished.output
    assert sorted(finished.jobs) == sorted(expected)
    jobs = ended_jobs(finished.output)
    remote = [job.split()[0] for job in finished.jobs if job.split()[0] not in LOCAL_RULES]
    assert sorted(jobs.values()) == sorted((rule, "COMPLETED") for rule in remote)
    submitted = re.findall(r"has been submitted with SLURM jobid (\d+)", finished.output)
    assert sorted(submitted) == sorted(jobs)
    stored = stores_in_bytes(begun)
    assert len({name.split("/")[0] for name in stored}) == 2
    assert stored == stores_in_bytes(local)


def test_profile_adds_to_the_default_one(new_work):
    """No cluster is asked in a dry run."""
    planned = new_work.snakemake(TARGET, *PROFILE, "--dry-run", "-p")

    assert planned.code == 0, planned.output
    assert "profiles/slurm and workflow specific profile profiles/default" in planned.output
    extract = re.search(r"rule extract:.*?resources: (.*?)\n", planned.output, re.DOTALL)[1]
    assert "mem_mb=4000" in extract and "runtime=720" in extract  # of all rules, of this one
