"""A head as a scikit-learn classifier: for rows and labels of any origin."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.head.joint_fit import JointFit
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import HeadSettings

LEAST_STEPS = 20
"""Minimum number of steps per epoch where the batch follows from the number of rows."""


class HeadClassifier(ClassifierMixin, BaseEstimator):
    """The network of a strong head (Oquab et al. 2014, section 3.3) as a scikit-learn classifier.

    Columns are standardised. Layers with ReLU and a softmax are fitted by SGD with a schedule of three learning
    rates, each until the loss settles. Background, if there is any, is a class like the others. The class passes
    scikit-learn's own checks of estimators.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the layers before the last: ``(2048,)`` is FCa + FCb, ``()`` FCb alone.
    rates : tuple of float
        Learning-rate schedule.
    max_epochs : tuple of int
        Maximum number of epochs per rate.
    batch : int or None
        Rows per step; None for 256, or fewer where there are few rows.
    dropout : float
        On the input of each layer.
    weight_decay : float
    standardise : bool
    random_state : int, RandomState or None

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    epochs_ : list of ``{rate, loss}``
    network_ : the fitted network

    Examples
    --------
    >>> import numpy as np, pipeline
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(-1, 1, (50, 8)), rng.normal(1, 1, (50, 8))])
    >>> y = np.repeat(["cat", "dog"], 50)
    >>> head = pipeline.HeadClassifier(hidden=(16,), random_state=0).fit(X, y)
    >>> head.score(X, y) > 0.95, head.predict_proba(X[:3]).shape
    (True, (3, 2))
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (2048,),
        *,
        rates: tuple[float, ...] = (0.01, 0.001, 0.0001),
        max_epochs: tuple[int, ...] = (20, 4, 2),
        batch: int | None = None,
        dropout: float = 0.5,
        weight_decay: float = 5e-4,
        standardise: bool = True,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.rates = rates
        self.max_epochs = max_epochs
        self.batch = batch
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.standardise = standardise
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Fit on rows (n, n_features) and labels (n,), numbers or strings."""
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        self.classes_ = encoder.classes_
        if len(self.classes_) < 2:
            raise ValueError(f"needs samples of two classes or more, got one class: {self.classes_[0]!r}")
        settings = HeadSettings(
            hidden=self.hidden,
            rates=self.rates,
            max_epochs=self.max_epochs,
            batch=self.batch or max(1, min(256, len(X) // LEAST_STEPS)),
            dropout=self.dropout,
            weight_decay=self.weight_decay,
            standardise=self.standardise,
            precision="fp32",
        )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        # One output per class: background, if there is any, is among the classes.
        network = HeadNetwork(X.shape[1], len(self.classes_), settings, "log-odds")
        joint = JointFit(seed)
        joint.add(network, settings, type(self).__name__)
        (self.epochs_,) = joint.run(X, encoder.transform(y))
        # In double precision the probabilities of a row do not depend on the other rows of the batch.
        self.network_ = network.double()
        return self

    @torch.inference_mode()
    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Compute logits: float64 ndarray (n, n_classes); for two classes (n,), the second minus the first."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        rows = torch.from_numpy(np.ascontiguousarray(X)).double()
        logits = self.network_.layers((rows - self.network_.mean) * self.network_.inv_std).numpy()
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Compute the probability of each class: float64 ndarray (n, n_classes), rows sum to 1."""
        logits = self.decision_function(X)
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], axis=1)
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the most probable class of each row."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]
