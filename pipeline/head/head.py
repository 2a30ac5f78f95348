"""A fitted head: its network and its facts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.activations.identity import explain_differences, how_part, value_fields
from pipeline.activations.store import Store
from pipeline.head.facts import HeadFacts
from pipeline.head.networks import SCORED_ROWS
from pipeline.head.settings import ScoreKind
from pipeline.head.task import HeadModule, PatchScorer, PooledScorer, ScaledAccumulator
from pipeline.io.errors import HeadError


@dataclass(frozen=True)
class Head:
    """A fitted head.

    Attributes
    ----------
    network : of its kind, in eval mode
    facts : what it was fitted on, and how
    """

    network: HeadModule
    facts: HeadFacts

    @property
    def name(self) -> str:
        """Name in the settings."""
        return self.facts.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of its scores, background not counted."""
        return self.facts.classes

    @property
    def score_kind(self) -> ScoreKind:
        """What its scores are: ``softmax`` and ``logistic`` lie in 0..1, others are of any size."""
        return self.network.score_kind

    @property
    def scores_patches(self) -> bool:
        """Whether it has `patch_scores`, and so heat maps; other heads score one vector per picture."""
        return isinstance(self.network, PatchScorer)

    def check_rows(self, store: Store) -> None:
        """Refuse a store whose rows were computed in another way than the rows of the fit.

        Raises
        ------
        HeadError
            The message names the fields that differ.
        """
        got, expected = value_fields(how_part(store.identity)), value_fields(self.facts.how)
        if got != expected:
            raise HeadError(
                f"head {self.name!r} was fitted on rows made in another way than those of {store.folder}\n"
                f"{explain_differences(got, expected)}\nextract that split in the same way, or fit a head on it"
            )

    def weights_digest(self) -> str:
        """Return the SHA-256 of the names and values of all its tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + b"\0")
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
        return digest.hexdigest()

    @torch.inference_mode()
    def patch_scores(self, rows: np.ndarray) -> np.ndarray:
        """Compute scores of rows, background left out.

        Parameters
        ----------
        rows : float16 ndarray of shape (n, width)

        Returns
        -------
        float32 ndarray of shape (n, n_classes)

        Raises
        ------
        HeadError
            The head scores whole pictures.
        """
        if not isinstance(self.network, PatchScorer):
            raise HeadError(f"head {self.name!r} scores whole pictures, not patches")
        chunks = torch.from_numpy(rows).split(SCORED_ROWS)
        return torch.cat([self.network.patch_scores(chunk) for chunk in chunks]).numpy()

    def own_picture_scores(self, rows: np.ndarray) -> np.ndarray | None:
        """Compute the scores of one picture in the head's own way; None for a head whose patch scores are aggregated.

        Parameters
        ----------
        rows : float16 ndarray of shape (n, width), all rows of the picture

        Returns
        -------
        float64 ndarray of shape (n_classes,)

        Raises
        ------
        HeadError
            The head tells the scales of patches apart, which rows alone do not say.
        """
        if not isinstance(self.network, PooledScorer):
            return None
        accumulator = self.network.accumulator(range(1))
        if isinstance(accumulator, ScaledAccumulator):
            raise HeadError(f"head {self.name!r} scores pictures of a store, not rows alone: it tells scales apart")
        accumulator.add(rows, np.zeros(len(rows), np.int64))
        return self.network.picture_scores(accumulator.columns())[0]
