"""Orderless pooling: one linear SVM per class on VLAD or Fisher vectors of a picture's rows, level by level.

Source: Gong, Wang, Guo and Lazebnik, "Multi-scale orderless pooling of deep convolutional activation features"
(ECCV 2014): principal components, words and a VLAD for each level of scales, joined, and a linear SVM.
"""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
import torch
from torch import nn

from pipeline.head.codebook import N_SCALES, WORDS_OF_ROWS, Codebook, EncodedPictures, fit_codebook
from pipeline.head.fit_memory import SLACK, reading_bytes, rows_bytes
from pipeline.head.pooled import fit_pictures
from pipeline.head.settings import ScoreKind
from pipeline.head.svm import bytes_of_moving, choose_way
from pipeline.head.svm_network import Svm, standardisation
from pipeline.head.svm_settings import SvmSettings, VladSettings
from pipeline.head.task import Columns, FitTask, Fitted, HeadKind
from pipeline.io.errors import HeadError
from pipeline.io.memory import release_memory
from pipeline.io.progress import Progress

NEGLIGIBLE = 1e-10
"""Of the largest square of a length along an axis: shorter ones are rounding."""


class VladNetwork(nn.Module):
    """A codebook, and one linear function per class of a picture's encoding; a `PooledScorer`.

    Parameters
    ----------
    width : columns of a row
    n_classes : int
    settings : VladSettings
    shape : numbers of levels, words and components; by default those of the settings
    """

    score_kind: ScoreKind = "pooled"

    def __init__(
        self, width: int, n_classes: int, settings: VladSettings, shape: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__()
        shape = shape or (settings.levels, settings.words, min(settings.components, width))
        self.book = Codebook(width, settings, (shape[0], shape[1], shape[2]))
        self.svm = Svm(width, n_classes, settings, self.book.n_columns)

    def accumulator(self, pictures: range) -> EncodedPictures:
        """Return an accumulator of the encodings of a range of pictures."""
        return EncodedPictures(self.book, pictures)

    def picture_scores(self, columns: Columns) -> np.ndarray:
        """Compute decision values, float64 ndarray (n_pictures, n_classes), of all pictures; NaN without rows."""
        return self.svm.decide(columns[EncodedPictures.COLUMN])


def make_network(
    width: int, n_classes: int, settings: VladSettings, shape: tuple[int, int, int] | None = None
) -> VladNetwork:
    """Make the network of a head, without weights."""
    return VladNetwork(width, n_classes, settings, shape)


def fit(task: FitTask, settings: VladSettings) -> Fitted:
    """Learn a codebook from a sample of the fit rows, encode the fit pictures, and fit one SVM per class.

    C is chosen as of an SVM head.

    Raises
    ------
    HeadError
        Pictures without labels or rows, or no class with a positive and a negative picture; the fit does not fit into
        the memory budget.
    """
    task.reader.require_all_rows()
    table, used = task.table, fit_pictures(task)
    used = used[np.diff(table.first_row)[used] > 0]
    if not len(used):
        raise HeadError(f"{table.dataset} {table.split}: no picture to fit {task.name} on has rows")
    scale = task.store.read_geometry("scale")
    level_of, chosen = choose_sample(task, used, scale, settings)
    level = level_of[scale[chosen]]
    shape = _shape(task, settings, level)
    network = make_network(task.store.width, task.n_classes, settings, shape)
    n_columns = min(len(used), network.book.n_columns)
    fits = partial(_bytes_of_fit, task, network, len(used), len(chosen))
    fitting = choose_way(task, settings.costs, used, n_columns, fits)
    network.book.level.copy_(torch.from_numpy(level_of))
    # In float16 and, of length 1, in float32 thrice: as they are, centred, and at work.
    working = 3 * 2 * rows_bytes(len(chosen), task.store.width)
    sample = task.reader.activations_at(chosen, f"fit {task.name}: the codebook", working)
    fit_codebook(network.book, np.concatenate([chunk.numpy() for chunk in sample.chunks(8192)]), level, task.seed)
    release_memory()
    vectors = _encode_store(task, network.book)[used].astype(np.float64)
    mean, inv_std = standardisation(vectors)
    if not settings.standardise:
        inv_std = np.ones_like(inv_std)
    vectors -= mean
    vectors *= inv_std
    basis = span(vectors)
    inside = vectors if basis is None else vectors @ basis
    # Standardised already, over all fit pictures: no label is in that.
    plain = SvmSettings(kind="svm", standardise=False, costs=settings.costs)
    make = partial(Svm, task.store.width, task.n_classes, plain, inside.shape[1])
    small, facts = fitting.run(inside, plain, make)
    weight = small.weight.double().numpy()
    network.svm.weight.copy_(torch.from_numpy(weight if basis is None else weight @ basis.T))
    network.svm.bias.copy_(small.bias)
    network.svm.mean.copy_(torch.from_numpy(mean))
    network.svm.inv_std.copy_(torch.from_numpy(inv_std))
    n_levels, n_words, n_components = shape
    codebook = {
        "rows": len(chosen),
        "scales": [np.unique(scale[chosen][level == index]).tolist() for index in range(n_levels)],
        "words": n_words,
        "components": n_components,
    }
    return Fitted(network.eval(), [], {**facts, "codebook": codebook, "network": {"shape": list(shape)}})


def group_scales(found: np.ndarray, n_levels: int) -> np.ndarray:
    """Return the level of each scale: int64 ndarray (N_SCALES,).

    Neighbouring scales, as evenly as their number allows; a scale that no fit row has is of the level of the next
    smaller one that was found.

    Parameters
    ----------
    found : ndarray of the scales of fit rows, rising

    Examples
    --------
    >>> group_scales(np.array([0, 1, 3, 4, 5]), 2)[:7].tolist()
    [0, 0, 0, 0, 1, 1, 1]
    """
    groups = np.array_split(found, min(n_levels, len(found)))
    firsts = [int(group[0]) for group in groups]
    return np.maximum(np.searchsorted(firsts, np.arange(N_SCALES), "right") - 1, 0)


def choose_sample(
    task: FitTask, used: np.ndarray, scale: np.ndarray, settings: VladSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Choose about `settings.sample` rows of fit pictures, equally many of each level and picture where there are.

    Which ones follows from the seed and the digests of the pictures' files.

    Parameters
    ----------
    used : int64 ndarray, the pictures; each has rows
    scale : uint8 ndarray (n_rows,), of all rows of the table

    Returns
    -------
    level_of : int64 ndarray (N_SCALES,), as of `group_scales`; each level has chosen rows
    chosen : int64 ndarray, rising: rows of the table
    """
    first_row, files, n = task.table.first_row, task.table.picture_sha256, settings.sample
    seeds = {i: _seed_of(task.seed, files[i]) for i in used.tolist()}
    pictures = sorted(seeds, key=lambda i: (seeds[i], i))[: max(1, n // settings.levels)]
    rows_of = {i: np.arange(first_row[i], first_row[i + 1]) for i in pictures}
    level_of = group_scales(np.unique(np.concatenate([scale[rows] for rows in rows_of.values()])), settings.levels)
    n_levels = int(level_of.max()) + 1
    quota = -(-n // (n_levels * len(pictures)))
    chosen = []
    for i, rows in rows_of.items():
        rng = np.random.default_rng(seeds[i])
        level = level_of[scale[rows]]
        chosen += [rng.permutation(rows[level == index])[:quota] for index in range(n_levels)]
    return level_of, np.sort(np.concatenate(chosen))


def _seed_of(seed: int, file_sha256: str) -> int:
    return int.from_bytes(hashlib.sha256(f"sample {seed} {file_sha256}".encode()).digest()[:8], "big")


def _shape(task: FitTask, settings: VladSettings, level: np.ndarray) -> tuple[int, int, int]:
    """Return numbers of levels, words and components: fewer than is set where the sample is small; that is said.

    Raises
    ------
    HeadError
        One row alone.
    """
    rows = np.bincount(level)
    words = int(min(settings.words, max(1, rows.min() // WORDS_OF_ROWS)))
    if len(level) < 2:
        raise HeadError(f"{task.table.dataset} {task.table.split}: one row to learn the words of {task.name} from")
    components = min(settings.components, task.store.width, len(level) - 1)
    if (words, components) != (settings.words, settings.components):
        text = f"{task.name}: {int(rows.min()):,} rows of a level, {task.store.width:,} columns"
        task.reader.budget.say(f"{text}: {words:,} words of {components:,} components")
    return len(rows), words, components


def _encode_store(task: FitTask, book: Codebook) -> np.ndarray:
    """Encode the fit pictures in one pass: float32 ndarray (n_pictures, n_columns), NaN for the others."""
    table, store = task.table, task.store
    encoded = EncodedPictures(book, range(len(table.ids)))
    with Progress(f"encode {table.dataset} {table.split}", table.n_rows, "patches") as progress:
        for part, rows in store.iter_parts():
            picture = table.picture_of(slice(part.start, part.stop))
            kept = ~task.is_held_out[picture]
            encoded.add_scaled(rows[kept], picture[kept], store.read_object("scale", part)[kept])
            progress.advance(part.n_rows)
            del rows
    return encoded.columns()[EncodedPictures.COLUMN]


def span(vectors: np.ndarray) -> np.ndarray | None:
    """Return an orthonormal basis of the space that vectors span, where they are fewer than their columns.

    A linear SVM only sees products of vectors, which are the same in that basis: with 1,200 pictures of 10,000 columns
    it is fitted on a tenth of the numbers.

    Parameters
    ----------
    vectors : float64 ndarray (n, n_columns)

    Returns
    -------
    float64 ndarray (n_columns, rank), or None where there are at least as many vectors, or all are zero
    """
    n, n_columns = vectors.shape
    if n >= n_columns:
        return None
    values, axes = np.linalg.eigh(vectors @ vectors.T)
    kept = values > NEGLIGIBLE * values.max()
    if not kept.any():  # all vectors are zero
        return None
    return vectors.T @ (axes[:, kept] / np.sqrt(values[kept]))


def _bytes_of_fit(task: FitTask, network: VladNetwork, n_used: int, n_sample: int, threads: int) -> int:
    """Return the most bytes that a fit takes: while it encodes, or with all vectors and liblinear's copies.

    Parameters
    ----------
    n_sample : rows that words are learnt from; the reader keeps them for the next head
    threads : classes that are fitted side by side; 0 on a GPU
    """
    n, n_columns = len(task.table.ids), network.book.n_columns
    small = min(n_used, n_columns)
    part = max((part.n_rows for part in task.store.parts), default=0)
    # Of the rows of a part: components, shares, and both of each level.
    encoding = 4 * n * n_columns + 40 * part * sum(network.book.means.shape[1:])
    fitting = 4 * n * n_columns + n_used * (3 * 8 * n_columns + small * (24 + threads * 24)) + 4 * 8 * small * small
    moving = 0 if threads else bytes_of_moving(n_used, task.n_classes, network.book.settings.costs)
    sample = rows_bytes(n_sample, task.store.width)
    return max(encoding, fitting) + sample + moving + reading_bytes(task.store) + SLACK


KIND: HeadKind[VladSettings] = HeadKind.of_single(make_network, fit)
