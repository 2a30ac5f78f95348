"""Files for the evaluation server of the VOC challenges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.dataset.manifest import ACTION_COMPETITIONS
from pipeline.dataset.voc_action import split_sample_id
from pipeline.io.atomic import write_atomic
from pipeline.scoring.aggregation import AggregationLike
from pipeline.scoring.scores import SplitScores


def write_devkit_files(
    scores: SplitScores, k: AggregationLike, folder: Path, competition: str, unscored: Sequence[str] = ()
) -> list[Path]:
    """Write files for the evaluation server, one per class: ``<comp>_cls_<split>_<class>.txt``, ``id score`` per line.

    For persons (``comp9``, ``comp10``) they are ``<comp>_action_<split>_<class>.txt`` and ``id object score``.

    Source: VOC2012 development kit, sections on submission of results.

    Parameters
    ----------
    unscored : classes that get no file
    """
    by_person = competition in ACTION_COMPETITIONS
    names = ["{} {}".format(*split_sample_id(i)) for i in scores.ids] if by_person else scores.ids
    paths = []
    for column, name in enumerate(scores.classes):
        if name in unscored:
            continue
        # In full, not with a fixed number of decimals: fifth powers of small probabilities would all become 0.
        lines = [f"{i} {float(value)!r}" for i, value in zip(names, scores.by(k)[:, column], strict=True)]
        task = "action" if by_person else "cls"
        path = folder / f"{competition}_{task}_{scores.facts.split}_{name}.txt"
        write_atomic(path, ("\n".join(lines) + "\n").encode())
        paths.append(path)
    return paths
