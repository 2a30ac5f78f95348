"""Heads, one at a time."""

from pipeline.activations.store import Store
from pipeline.head.fit import fit_heads
from pipeline.head.head import Head
from pipeline.head.joint_fit import JointFit
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import AnyHead
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable


def fit_head(
    store: Store, table: PatchTable, name: str, settings: AnyHead, label_rule: LabelSettings, seed: int, **options
) -> Head:
    """Fit one head; options as for `fit_heads`."""
    return dict(fit_heads(store, table, {name: settings}, label_rule, seed, **options))[name]


def fit_network(rows, targets, n_outputs, settings, seed, name="head"):
    """Fit a softmax network alone; return it and its loss curve."""
    network = HeadNetwork(rows.shape[1], n_outputs - 1, settings)
    joint = JointFit(seed)
    joint.add(network, settings, name)
    (curve,) = joint.run(rows, targets)
    return network, curve
