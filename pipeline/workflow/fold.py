"""Snakemake's output on the terminal, folded: a line per finished job, and of a failed one its command and its log.

The stages print their own progress; Snakemake's blocks of each job bury it. Nothing is lost: ``.snakemake/log`` has it
all, and ``-p`` or ``--verbose`` prints it as Snakemake does. Plain Python: events have names, and other records texts.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

UNSAID = ("workflow_started", "resources_info", "job_started", "job_finished")
"""Events that say nothing about this run; progress names the jobs that finished."""
UNSAID_TEXTS = (
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Conda environments: ignored",
    "Reasons:",
    "Removing temporary output",
    "Select jobs to execute",
    "Using shell:",
    "Would remove temporary output",
)
FOLLOWS = "Input files updated by another job"
"""A reason that every job after another one has: it is said where there is no other."""
PROGRESS = re.compile(r"^[^:]+: [\d,]+/[\d,]+ \w+(, [\d,.]+/s\b|$)")
"""Lines of a log that were seen when they were written, and say nothing of an error."""
LINES_OF_LOG = 40
"""Last lines of a failed job's log, apart from progress: the error is at the end."""


def fold_output(logger: logging.Logger, settings: Any) -> None:
    """Fold what a logger writes to the terminal; its files stay whole.

    Parameters
    ----------
    logger : Snakemake's
    settings : Snakemake's settings of output, as ``workflow.output_settings``
    """
    if settings.verbose or settings.printshellcmds or settings.debug_dag:
        return
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            fold = Fold(handler.formatter or logging.Formatter(), settings.dryrun)
            handler.addFilter(fold.shows)
            handler.setFormatter(fold)


class Fold(logging.Formatter):
    """Formatter and filter of one handler.

    Parameters
    ----------
    whole : formats what is not folded
    dry_run : whether jobs are only planned; then each has a line with its reason
    """

    def __init__(self, whole: logging.Formatter, dry_run: bool) -> None:
        super().__init__()
        self._whole, self._dry_run = whole, dry_run
        self._names: dict[int, str] = {}
        self._finished: list[int] = []
        self._counted = self._failed = False

    def shows(self, record: logging.LogRecord) -> bool:
        """Return whether a record has a line; remember what later lines need of it."""
        event = str(getattr(record, "event", None) or "")
        if event == "job_info":
            self._names[_of(record, "jobid")] = _name(record)
            return self._dry_run
        if event == "job_finished":
            self._finished.append(_of(record, "job_id"))
        if event == "job_error":
            self._failed = True
        if event == "run_info" and self._counted:
            return False  # a dry run says it twice
        if event == "error" and "CalledProcessError" in str(record.msg):
            return False  # of a job, whose own error follows
        if not event and record.levelno == logging.INFO:
            text = str(record.msg)
            return not text.startswith(UNSAID_TEXTS) and (self._failed or not text.startswith("Complete log"))
        return event not in UNSAID

    def format(self, record: logging.LogRecord) -> str:
        match str(getattr(record, "event", None) or ""):
            case "job_info":
                return f"{self._names[_of(record, 'jobid')]}: {_reason(_of(record, 'reason'))}"
            case "run_info" if stats := getattr(record, "stats", None):
                self._counted = True
                each = ", ".join(f"{n} {rule}" for rule, n in stats.items() if rule != "total")
                return f"{stats['total']} job{'s' if stats['total'] != 1 else ''} to run: {each}"
            case "progress":
                names = ", ".join(self._names.get(job, f"job {job}") for job in self._finished)
                self._finished.clear()
                return f"{_of(record, 'done')}/{_of(record, 'total')} done{f': {names}' if names else ''}"
            case "job_error":
                return self._error(record)
        return self._whole.format(record)

    def _error(self, record: logging.LogRecord) -> str:
        job = _of(record, "jobid")
        lines = [f"error: {self._names.get(job, _of(record, 'rule_name'))} failed"]
        if message := getattr(record, "rule_msg", None):
            lines.append(str(message))
        if command := getattr(record, "shellcmd", None):
            lines += ["Its command:", f"    {command}"]
        lines += [f"{name}: {value}" for name, value in (getattr(record, "aux", None) or {}).items()]
        for log in getattr(record, "log", None) or ():
            lines += _end_of(Path(log))
        return "\n".join(lines)


def _of(record: logging.LogRecord, name: str) -> Any:
    return getattr(record, name)


def _name(record: logging.LogRecord) -> str:
    """Name a job by its rule and what tells it from others of it; digests are in the names of files."""
    said = {key: str(value) for key, value in (getattr(record, "wildcards", None) or {}).items() if key != "digest"}
    if {"i", "n"} <= said.keys():
        said["i"] += f"/{said.pop('n')}"
    return " ".join([_of(record, "rule_name"), *said.values()])


def _reason(text: str) -> str:
    """Shorten a reason, and say of a marker what it notes, in place of its name."""

    def noted(match: re.Match[str]) -> str:
        try:
            return Path(match[0]).read_text(encoding="utf-8").strip().removeprefix("due: ")
        except OSError:
            return match[0]

    said = text.split("; ")
    text = "; ".join([part for part in said if not part.startswith(FOLLOWS)] or said)
    return re.sub(r"[^\s,;]+/due/[^\s,;]+/marker", noted, text)


def _end_of(log: Path) -> list[str]:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [f"Its log, {log}, was not written."]
    lines = [line for line in lines if not PROGRESS.search(line)]
    if not lines:
        return [f"Its log, {log}, says nothing."]
    cut = f", its last {LINES_OF_LOG} lines" if len(lines) > LINES_OF_LOG else ""
    return [f"Its log, {log}{cut}:", *(f"    {line}" for line in lines[-LINES_OF_LOG:])]
