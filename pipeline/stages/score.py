"""Stage ``score``: scores of a split's pictures by fitted heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.activations.engines import check_scheduler
from pipeline.head.facts import read_facts
from pipeline.io.atomic import check_writable
from pipeline.io.errors import StoreError, StoreNotExtractedError
from pipeline.patches.sampling import hold_out_pictures
from pipeline.scoring.heat_maps import lack_peaks
from pipeline.scoring.score import SplitScoring
from pipeline.scoring.scores import SplitScores
from pipeline.scoring.scores_file import load_scores, save_scores
from pipeline.stages import fit_head, patches
from pipeline.stages.boxes import check_heads
from pipeline.stages.context import RunContext
from pipeline.stages.patches import TableDueError
from pipeline.stages.runner import set_threads
from pipeline.stages.score_shares import SharedScoring
from pipeline.stages.seconds import write_seconds
from pipeline.stages.stored import open_rows, sealed_store


def scored_split(run: RunContext, split: str | None = None, held_out: bool = False) -> str:
    """Return the split that is scored: the evaluation split by default, the fit split for held-out pictures."""
    return run.manifest.fit if held_out else split or run.manifest.eval


def path(run: RunContext, head: str, split: str | None = None, held_out: bool = False) -> Path:
    """Return the file of a head's scores; with `held_out`, of the fit split's held-out pictures alone."""
    return run.ws.scores_path(run.dataset, head, scored_split(run, split, held_out), held_out)


def why_due(run: RunContext, head: str, split: str | None = None, held_out: bool = False) -> str | None:
    """Return why a split must be scored, or None if its scores are of a current head, this store and these pictures.

    Raises
    ------
    MissingDataError
        Neither the pictures of a split nor their patch table.
    """
    file = path(run, head, split, held_out)
    if not file.is_file():
        return "it has not been scored yet"
    try:
        scores = load_scores(file)
    except StoreError as error:
        return str(error)
    reason = fit_head.why_due(run, head, held_out)
    if reason is not None:
        return f"head {head!r}: {reason}"
    name = scored_split(run, split, held_out)
    try:
        table = patches.require(run, name)
    except TableDueError as due:
        return str(due)
    if scores.facts.head != read_facts(fit_head.path(run, head, held_out)):
        return "the scores are of another head"
    if (scores.facts.rows_digest, scores.ids) != (table.rows_digest, table.ids):
        return "the scores are of other pictures or patches"
    if scores.peak_xy is not None and table.labelled and lack_peaks(scores.peak_xy, table):
        return "the scores have no map peaks of classes that pictures show now: annotations changed"
    try:
        if scores.facts.fingerprint != sealed_store(run, name).fingerprint:
            return "the scores are of another store"
    except StoreNotExtractedError:
        pass  # scores outlive their store
    return None


def require(run: RunContext, head: str, split: str | None = None, held_out: bool = False) -> SplitScores:
    """Load scores that are current.

    Raises
    ------
    StoreError
        They are not there, damaged, or of something else than there is now.
    """
    file = path(run, head, split, held_out)
    if file.is_file():  # if not, loading says so
        reason = why_due(run, head, split, held_out)
        if reason is not None:
            table = patches.path(run, scored_split(run, split, held_out))
            hint = "" if table.is_file() else "give the --cache with which they were made, or "
            raise StoreError(
                f"{file}: {reason}; {hint}score again: pipeline score --dataset {run.dataset} --head {head} "
                f"--split {scored_split(run, split, held_out)}, with the same settings"
            )
    return load_scores(file)


def make(
    run: RunContext,
    heads: Sequence[str],
    split: str | None = None,
    held_out: bool = False,
) -> dict[str, Path]:
    """Score a split with fitted heads and write the scores; the store is read once for all of them.

    Shares that `make_share` or an interrupted run left are joined, and only the rest is scored.

    Parameters
    ----------
    split : None for the evaluation split
    held_out : score the held-out pictures of the fit split, with the heads that were fitted without them
    """
    check_scheduler(run.scheduler)  # before anything is read
    check_writable(*(path(run, head, split, held_out) for head in heads))
    scoring = _open(run, heads, split, held_out)
    shared = SharedScoring(run, scoring, heads, held_out)
    ranges, seconds = shared.score()
    paths = {}
    for head, scores in zip(heads, scoring.join(ranges), strict=True):
        file = paths[head] = path(run, head, split, held_out)
        save_scores(scores, file)
        write_seconds(file, {"score": seconds})
        n_rows = scoring.table.n_rows
        run.say(f"{file}: {len(scores.ids):,} pictures, {n_rows:,} patches scored in {seconds:.1f} s")
    shared.remove_shares()
    return paths


def make_share(run: RunContext, heads: Sequence[str], share: tuple[int, int], split: str | None = None) -> list[Path]:
    """Score one of several shares of a split; `make` joins them.

    Parameters
    ----------
    share : (i, n) for the i-th (from 1) of n

    Returns
    -------
    Files of the share, one per head.
    """
    return SharedScoring(run, _open(run, heads, split), heads).make_share(*share)


def _open(run: RunContext, heads: Sequence[str], split: str | None, held_out: bool = False) -> SplitScoring:
    """Open table, store and heads, all of them current."""
    check_heads(run.manifest, run.settings, heads)
    name = scored_split(run, split, held_out)
    table, store = open_rows(run, name)
    set_threads(run.settings.threads)
    loaded = [fit_head.require(run, head, held_out) for head in heads]
    wanted = hold_out_pictures(table.picture_sha256, run.settings.held_out) if held_out else None
    return SplitScoring(store, table, loaded, run.settings.all_aggregations, wanted, fit_head.head_device(run))


def current_scores(run: RunContext, head: str, split: str | None = None, held_out: bool = False) -> SplitScores:
    """Return the scores of a split by a fitted head; scored again unless they are current."""
    if why_due(run, head, split, held_out) is not None:
        make(run, [head], split, held_out)
    return load_scores(path(run, head, split, held_out))
