"""Heads of a user's own: classes in Python, on pooled vectors of pictures or on patches (docs/how-to/own-head.md).

Such a class is made as ``Class(width, n_classes, **parameters)`` and is fitted once. What it learnt is kept as the
arrays of its ``state_dict`` in the file of the head, never as a pickle. Every answer of the class is checked.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.head.fit_rows import RESERVE
from pipeline.head.pooled import PooledNetwork, count_pictures, labelled_both_ways, pool_fit_pictures
from pipeline.head.settings import HEAD_GROUP, HIGHEST_PROBABILITY, CodeSettings, HeadSettings, PatchScoreKind
from pipeline.head.strong import choose_training_patches
from pipeline.head.task import FitTask, Fitted, HeadKind
from pipeline.io.errors import HeadError, PipelineError
from pipeline.io.messages import brief
from pipeline.io.own_code import explain, find_code, load_class

SCORES = {"pictures": "picture_scores", "patches": "patch_scores"}
"""The method that scores, by the setting ``takes``."""
OWN = "own."
"""Before the names of the class's tensors in the file of a head, so that none clashes with a name of the file's own."""
COMPARED = 64
"""Vectors or rows on which a head is compared with what its file would give back."""


class Guarded:
    """An instance of a user's class: every call is explained where it fails, and every answer is checked.

    Parameters
    ----------
    width : columns of what it is given
    n_classes : background not counted
    """

    def __init__(self, width: int, n_classes: int, settings: CodeSettings) -> None:
        self.settings, self._n_classes = settings, n_classes
        self._code = find_code(settings.code, HEAD_GROUP)
        if self._code.sha256 != settings.sha256:
            raise HeadError(f"{self._code.files[0]}: changed since this command began; start it again")
        method = SCORES[settings.takes]
        found = load_class(self._code, ("fit", method, "state_dict", "load_state_dict"))
        try:
            inspect.signature(found).bind(width, n_classes, **settings.parameters)
        except TypeError as error:
            raise HeadError(
                f"{self._code.reference}: cannot be made with (width, n_classes, **parameters): {error}; parameters: "
                f"{brief(settings.parameters)}; the class takes {inspect.signature(found)}"
            ) from error
        self.own: Any = self._call(found, width, n_classes, **settings.parameters)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the class; what it raises becomes a `HeadError` that names the line."""
        return self._call(getattr(self.own, method), *arguments)

    def _call(self, function: Any, *arguments: Any, **parameters: Any) -> Any:
        try:
            return function(*arguments, **parameters)
        except PipelineError:
            raise
        except Exception as error:
            name = getattr(function, "__name__", "")
            name = "" if name == self._code.name else f".{name}"
            raise HeadError(f"{self._code.reference}{name}: {explain(error, self._code)}") from error

    def scores(self, given: Any, n: int) -> np.ndarray:
        """Return the scores of vectors or rows, as they come: float ndarray (n, n_classes), finite.

        Raises
        ------
        HeadError
            Another shape or type, values that are not finite, or outside of the range of the stated kind.
        """
        method = SCORES[self.settings.takes]
        answer = self.call(method, given)
        values = answer.detach().cpu().numpy() if isinstance(answer, Tensor) else answer
        where = f"{self._code.reference}.{method}"
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            got = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(answer).__name__
            raise HeadError(f"{where}: expected an ndarray or a Tensor of floating-point numbers, got {got}")
        if values.shape != (n, self._n_classes):
            raise HeadError(f"{where}: expected shape {(n, self._n_classes)} (n, n_classes), got {values.shape}")
        if not np.isfinite(values).all():
            n_bad = int((~np.isfinite(values)).any(1).sum())
            raise HeadError(f"{where}: {n_bad:,} of {n:,} rows of scores hold NaN or infinity; expected finite numbers")
        if self.settings.takes == "patches" and self.settings.score_kind != "log-odds":
            low, high = float(values.min(initial=0)), float(values.max(initial=0))
            if low < 0 or high > HIGHEST_PROBABILITY:
                raise HeadError(
                    f"{where}: score_kind {self.settings.score_kind} says scores in 0..1, got {low:g}..{high:g}; "
                    "for others set score_kind: log-odds"
                )
        return values

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the class learnt.

        Raises
        ------
        HeadError
            It is no mapping from names to arrays of numbers.
        """
        state, where = self.call("state_dict"), f"{self._code.reference}.state_dict"
        if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
            raise HeadError(f"{where}: expected a dict from names to arrays of numbers, got {brief(type(state))}")
        tensors = {}
        for name, value in state.items():
            array = value if isinstance(value, Tensor) else np.asarray(value)
            if isinstance(array, np.ndarray) and array.dtype.kind not in "fiub":
                raise HeadError(
                    f"{where}: {name!r} is {type(value).__name__}, expected an array of numbers: a head is kept "
                    "as plain arrays, never pickled, so that workers and later versions can read it"
                )
            tensor = array.detach().cpu() if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
            tensors[OWN + name] = tensor.contiguous().clone()
        return tensors

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give the class back what it learnt: Tensors where it is a module of torch, ndarrays elsewhere."""
        plain = {name.removeprefix(OWN): tensor for name, tensor in state.items()}
        is_module = isinstance(self.own, nn.Module)
        self.call("load_state_dict", plain if is_module else {name: t.numpy().copy() for name, t in plain.items()})

    def eval(self) -> None:
        """Switch dropout off, where the class knows what that is."""
        if callable(getattr(self.own, "eval", None)):
            self.call("eval")


class OwnPictures(PooledNetwork):
    """A user's class on pooled vectors; a `PooledScorer`."""

    def __init__(self, width: int, n_classes: int, settings: CodeSettings) -> None:
        self.width, self.settings = width, settings
        self._n_classes = n_classes
        self.guarded = Guarded(width * len(settings.pooling), n_classes, settings)

    def state_dict(self) -> dict[str, Tensor]:
        return self.guarded.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.guarded.load_state_dict(state_dict)

    def eval(self) -> OwnPictures:
        self.guarded.eval()
        return self

    @torch.no_grad()
    def decide(self, vectors: np.ndarray) -> np.ndarray:
        """Compute scores, float64 ndarray (n, n_classes), of joined vectors; NaN for a picture without rows."""
        there = np.isfinite(vectors).all(1)
        scores = np.full((len(vectors), self._n_classes), np.nan)
        if there.any():
            scores[there] = self.guarded.scores(vectors[there], int(there.sum()))
        return scores


class OwnPatches:
    """A user's class on patches; a `PatchScorer`."""

    def __init__(self, width: int, n_classes: int, settings: CodeSettings) -> None:
        self.score_kind: PatchScoreKind = settings.score_kind
        self.guarded = Guarded(width, n_classes, settings)

    def state_dict(self) -> dict[str, Tensor]:
        return self.guarded.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.guarded.load_state_dict(state_dict)

    def eval(self) -> OwnPatches:
        self.guarded.eval()
        return self

    def patch_scores(self, rows: Tensor) -> Tensor:
        """Compute scores (n, n_classes) of rows (n, width)."""
        return torch.from_numpy(self.guarded.scores(rows, len(rows)).astype(np.float32))


OwnNetwork = OwnPictures | OwnPatches


def make_network(width: int, n_classes: int, settings: CodeSettings) -> OwnNetwork:
    """Make the network of a user's class, before it is fitted or loaded."""
    kind = OwnPatches if settings.takes == "patches" else OwnPictures
    return kind(width, n_classes, settings)


def fit(task: FitTask, settings: CodeSettings) -> Fitted:
    """Fit a user's class, and return it as its file would give it back.

    On pictures it gets ``fit(vectors, labels, seed)``: float32 ndarray (n, n_columns) and int8 ndarray (n, n_classes)
    of 1, -1 and 0 (difficult). On patches ``fit(rows, targets, seed)``: `FitRows`, and int64 ndarray (n,) of classes,
    ``n_classes`` for background; with ``targets: several`` int8 ndarray (n, n_classes). The global generators of
    torch, numpy and Python are seeded for the fit, and restored.

    Raises
    ------
    HeadError
        Whatever the class raises; an answer that is none; a state that does not give the same scores again.
    """
    with _seeded(task.seed):
        network = make_network(task.store.width, task.n_classes, settings)
        some: Tensor | np.ndarray
        if isinstance(network, OwnPatches):
            facts, some = _fit_patches(network, task, settings)
        else:
            facts, some = _fit_pictures(network, task, settings)
        network.eval()
        again = make_network(task.store.width, task.n_classes, settings)
        again.load_state_dict(network.state_dict())
        again.eval()
    before, after = _score(network, some), _score(again, some)
    if not np.array_equal(before, after):
        raise HeadError(
            f"{settings.code}: what state_dict returns does not give the same scores again ({len(some)} of the fit "
            f"rows, largest difference {np.abs(before - after).max():g}); all that scores depend on must be in it"
        )
    return Fitted(again, [], facts)


def _fit_pictures(network: OwnPictures, task: FitTask, settings: CodeSettings) -> tuple[dict[str, Any], np.ndarray]:
    # The vectors and what a fit may copy of them: once more, and once in float64.
    pooled = pool_fit_pictures(task, settings, bytes_per_value=4 + 4 + 8)
    both = labelled_both_ways(task.table, pooled.labels)
    network.guarded.call("fit", pooled.vectors.copy(), pooled.labels.copy(), task.seed)
    facts = {"pooled": count_pictures(task.table.classes, pooled.labels, both)}
    return facts, pooled.vectors[:COMPARED]


def _fit_patches(network: OwnPatches, task: FitTask, settings: CodeSettings) -> tuple[dict[str, Any], Tensor]:
    chosen = HeadSettings(targets=settings.targets, background_share=settings.background_share)
    patches = choose_training_patches(task, chosen)
    rows = task.reader.activations_at(patches.row_index, f"fit {task.name}", RESERVE)
    network.guarded.call("fit", rows, patches.targets.copy(), task.seed)
    return {"patches": patches.facts}, next(iter(rows.chunks(COMPARED)))


def _score(network: OwnNetwork, some: Any) -> np.ndarray:
    with torch.inference_mode():
        return network.patch_scores(some).numpy() if isinstance(network, OwnPatches) else network.decide(some)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, and restore them afterwards."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


KIND: HeadKind[CodeSettings] = HeadKind.of_single(make_network, fit)
