"""mAP of a colour histogram with a linear SVM, the floor that a trunk must beat clearly.

    python benchmarks/histogram.py --dataset demo

Whole-picture RGB histograms of 8 x 8 x 8 bins, square-rooted, one LinearSVC a class, the dataset's
own splits and AP rule.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.svm import LinearSVC

from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.picture import decode_picture
from pipeline.dataset.read import read_split
from pipeline.dataset.split import Split
from pipeline.metrics.average_precision import mean_average_precision


def histograms(split: Split) -> np.ndarray:
    """Square roots of bin shares: float ndarray of shape (n_pictures, 512)."""
    rows = []
    for path in split.paths:
        bins = decode_picture(path.read_bytes(), apply_exif=False).reshape(-1, 3) // 32
        counts = np.bincount(bins @ np.array([64, 8, 1]), minlength=512)
        rows.append(np.sqrt(counts / counts.sum()))
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--data-root")
    options = parser.parse_args()
    manifest = load_manifest(options.dataset)
    fit, test = (read_split(manifest, name, options.data_root) for name in (manifest.fit, manifest.eval))
    x, x_test = histograms(fit), histograms(test)
    scores = np.empty(test.labels.shape)
    for column in range(len(manifest.classes)):
        used = fit.labels[:, column] != 0
        svm = LinearSVC(C=1.0, random_state=0).fit(x[used], fit.labels[used, column] == 1)
        scores[:, column] = svm.decision_function(x_test)
    mean, _ = mean_average_precision(scores, test.labels, manifest.metric)
    chance = (test.labels == 1).mean()
    print(f"{options.dataset}: colour histogram + linear SVM: mAP {100 * mean:.1f} % (chance {100 * chance:.1f} %)")


if __name__ == "__main__":
    main()
