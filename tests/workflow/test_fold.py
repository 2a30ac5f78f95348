"""Snakemake's output folded, record by record, through Snakemake's own handler; `test_snakemake` has whole runs."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace

import pytest
from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from pipeline.workflow.fold import LINES_OF_LOG, fold_output

WILDCARDS = {"dataset": "tiny", "split": "val", "digest": "0123456789", "i": "2", "n": "4"}


def told(dry_run: bool = False, **settings: bool) -> tuple[logging.Logger, io.StringIO]:
    """A logger as Snakemake sets it up, folded, and what it writes to the terminal."""
    stream = io.StringIO()
    logger = logging.Logger("folded", logging.INFO)
    whole, shown = DefaultFormatter(None, True), DefaultFilter(None, False, False, dry_run, settings.get("p", False))
    logger.addHandler(ColorizingTextHandler(nocolor=True, stream=stream, formatter=whole, filter=shown))
    output = SimpleNamespace(verbose=False, debug_dag=False, printshellcmds=settings.get("p", False), dryrun=dry_run)
    fold_output(logger, output)
    return logger, stream


def start_job(
    logger: logging.Logger, reason: str = "Missing output files: a.h5; Input files updated by another job: b"
):
    about = {"jobid": 7, "rule_name": "extract_share", "wildcards": WILDCARDS, "reason": reason, "rule_msg": None}
    of_block = {"local": False, "is_checkpoint": False, "input": [], "output": ["a.h5"], "log": [], "benchmark": None}
    of_block |= {"priority": 0, "threads": 1, "resources": {}}
    logger.info("job", extra={"event": LogEvent.JOB_INFO, **about, **of_block})


def end_job(logger: logging.Logger) -> None:
    logger.info("Finished jobid: 7", extra={"event": LogEvent.JOB_FINISHED, "job_id": 7})
    logger.info(None, extra={"event": LogEvent.PROGRESS, "done": 1, "total": 3})


def test_a_finished_job_is_one_line_and_unknown_messages_stay():
    logger, stream = told()
    logger.info("Building DAG of jobs...")
    stats = {"extract_share": 2, "extract": 1, "total": 3}
    logger.info("table", extra={"event": LogEvent.RUN_INFO, "stats": stats})
    start_job(logger)
    logger.info("Job 7 has been submitted with SLURM jobid 12")
    logger.warning("careful")
    end_job(logger)
    logger.info("Complete log(s): x")
    assert stream.getvalue().splitlines() == [
        "3 jobs to run: 2 extract_share, 1 extract",
        "Job 7 has been submitted with SLURM jobid 12",
        "careful",
        "1/3 done: extract_share tiny val 2/4",
    ]


def test_a_dry_run_gives_each_job_its_reason_and_that_of_its_marker(tmp_path):
    marker = tmp_path / "due/extract-a/marker"
    marker.parent.mkdir(parents=True)
    marker.write_text("due: the rows are of other weights\n")
    logger, stream = told(dry_run=True)
    start_job(logger)
    start_job(logger, f"Updated input files: {marker}")
    start_job(logger, "Input files updated by another job: b")
    name = "extract_share tiny val 2/4: "
    assert stream.getvalue().split("\n")[1:-1] == [
        f"{name}Missing output files: a.h5",
        f"{name}Updated input files: the rows are of other weights",
        f"{name}Input files updated by another job: b",
    ]


@pytest.mark.parametrize("n_lines", [2, LINES_OF_LOG + 2])
def test_a_failed_job_has_its_command_and_the_end_of_its_log(tmp_path, n_lines):
    log = tmp_path / "job.log"
    said = [f"error: line {n}, 3/5 pictures" for n in range(n_lines)]
    log.write_text("\n".join(["extract tiny val: 512/19,584 patches, 313/s, 51s left | cut 2 %", *said]) + "\n")
    logger, stream = told()
    start_job(logger)
    logger.error("RuleException:\nCalledProcessError", extra={"event": LogEvent.ERROR, "exception": "RuleException"})
    failed = {"jobid": 7, "rule_name": "extract_share", "rule_msg": None, "aux": {}, "log": [str(log)]}
    logger.error("failed", extra={"event": LogEvent.JOB_ERROR, "shellcmd": "pipeline extract", **failed})
    logger.info("Complete log(s): x")
    cut = f", its last {LINES_OF_LOG} lines" if n_lines > LINES_OF_LOG else ""
    assert stream.getvalue().splitlines() == [
        "error: extract_share tiny val 2/4 failed",
        "Its command:",
        "    pipeline extract",
        f"Its log, {log}{cut}:",
        *(f"    {line}" for line in said[-LINES_OF_LOG:]),
        "Complete log(s): x",
    ]


def test_commands_that_are_asked_for_bring_all_that_snakemake_says():
    logger, stream = told(p=True)
    logger.info("Building DAG of jobs...")
    start_job(logger)
    assert "Building DAG of jobs..." in stream.getvalue()
    assert "rule extract_share:" in stream.getvalue() and "Missing output files: a.h5" in stream.getvalue()
