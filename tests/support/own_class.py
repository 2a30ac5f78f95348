"""A class of a user's own, as a head."""

import numpy as np


class Zeros:
    """A head that learns nothing."""

    def __init__(self, width, n_classes):
        self.zeros = np.zeros(n_classes)

    def fit(self, vectors, labels, seed):
        pass

    def picture_scores(self, vectors):
        return np.tile(self.zeros, (len(vectors), 1))

    def state_dict(self):
        return {"zeros": self.zeros}

    def load_state_dict(self, state):
        self.zeros = state["zeros"]
