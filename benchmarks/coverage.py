"""What the intervals of a comparison cover: drawn recipes on many drawn splits, where the truth is known.

Two recipes with common and own noise score splits of N pictures and 20 classes. Of each split the bootstrap
says how far mAP, and the difference of the two, may move; other splits show how far they do.

    python benchmarks/coverage.py --pictures 1000 --splits 200
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from pipeline.metrics.average_precision import mean_average_precision
from pipeline.metrics.bootstrap import bootstrap_mean_ap, interval, paired_difference

N_CLASSES = 20
# Shares of pictures that show a class, and how well it is told apart, in deviations; one class is in 40 %.
SHARES = np.append(np.linspace(0.03, 0.12, N_CLASSES - 1), 0.4)
LIFTS = np.linspace(0.8, 2.6, N_CLASSES)[np.random.default_rng(1).permutation(N_CLASSES)]


def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two recipes, the first a little better, and labels, each (n, N_CLASSES)."""
    labels = np.where(rng.random((n, N_CLASSES)) < SHARES, 1, -1)
    common = rng.normal(size=labels.shape)
    better, other = (
        0.8 * common + 0.6 * rng.normal(size=labels.shape) + (LIFTS + more) * (labels == 1) for more in (0.1, 0.0)
    )
    return better, other, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    rows, seconds = [], 0.0
    for _ in range(args.splits):
        better, other, labels = draw(args.pictures, rng)
        measured = [mean_average_precision(scores, labels, "voc12")[0] for scores in (better, other)]
        started = time.perf_counter()
        resampled = [bootstrap_mean_ap(scores, labels, "voc12", args.resamples) for scores in (better, other)]
        seconds += time.perf_counter() - started
        pair = paired_difference(*resampled, measured=measured[0] - measured[1])
        rows.append((*measured, resampled[1], pair["low"], pair["high"]))
    first, second = (np.array([row[i] for row in rows]) for i in (0, 1))
    plain = [interval(row[2]) for row in rows]
    moved = [interval(row[2], measured=row[1]) for row in rows]

    def share(pairs: list[tuple[float, float]], truth: float) -> float:
        return round(float(np.mean([low <= truth <= high for low, high in pairs])), 3)

    difference = (first - second).mean()
    result = {
        "pictures": args.pictures,
        "splits": args.splits,
        "resamples": args.resamples,
        "mAP": round(float(second.mean()), 4),
        "deviation_over_splits": round(float(second.std(ddof=1)), 4),
        "deviation_over_resamples": round(float(np.mean([row[2].std(ddof=1) for row in rows])), 4),
        "resamples_above_measured": round(float(np.mean([row[2].mean() for row in rows]) - second.mean()), 4),
        "covered": {"moved": share(moved, second.mean()), "plain": share(plain, second.mean())},
        "difference": {
            "mean": round(float(difference), 4),
            "deviation_over_splits": round(float((first - second).std(ddof=1)), 4),
            "covered": share([row[3:] for row in rows], difference),
            "found": round(float(np.mean([row[3] > 0 for row in rows])), 3),
            "found_unpaired": round(float(np.mean([m1 - m2 > w for m1, m2, w in _unpaired(rows)])), 3),
        },
        "seconds_a_recipe": round(seconds / args.splits / 2, 2),
    }
    print(json.dumps(result, indent=2))


def _unpaired(rows: list[tuple]) -> list[tuple[float, float, float]]:
    """Both mAPs, and half the width of an interval of a difference whose recipes were not paired."""
    return [(row[0], row[1], 1.96 * np.sqrt(2) * row[2].std(ddof=1)) for row in rows]


if __name__ == "__main__":
    main()
