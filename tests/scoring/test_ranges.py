"""Scores by ranges: any division of a split gives the bytes of one pass, and only its own shares are joined."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.heads import fit_head
from support.stores import seal_store
from support.torture import TORTURE

from pipeline.activations.partition import parts_of
from pipeline.head.head import Head
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import HeadSettings, SvmSettings, WeakSettings
from pipeline.io.errors import StoreError
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.score import SplitScoring, score_split
from pipeline.scoring.scores_file import save_scores
from pipeline.scoring.share_file import load_share, save_share

AGGREGATIONS = (1.0, 5.0, "max", "top:2", "lme:4")
KINDS = ("fca", "fcb", "bf16", "logistic", "log-odds", "weak", "svm", "svm of both")


@pytest.fixture(scope="module")
def by_kind(heads, train) -> dict[str, Head]:
    """A head of each kind, of each kind of scores and of each arithmetic."""
    fca, fcb = heads["fca"], heads["fcb"]
    halved = HeadNetwork(6, 3, HeadSettings(precision="bf16", hidden=(16,))).eval()
    halved.load_state_dict(fca.network.state_dict())
    made = {"fca": fca, "fcb": fcb, "bf16": Head(halved, fca.facts)}
    state = {n: v[:3] if n.startswith("layers") else v for n, v in fcb.network.state_dict().items()}
    for score_kind in ("logistic", "log-odds"):
        network = HeadNetwork(6, 3, HeadSettings(hidden=()), score_kind).eval()
        network.load_state_dict(state)
        made[score_kind] = Head(network, fcb.facts)
    of_kind = {
        "weak": WeakSettings(kind="weak", hidden=(8,), top=2, batch=4, max_epochs=(2, 1), dropout=0.0),
        "svm": SvmSettings(kind="svm", costs=(1.0,)),
        "svm of both": SvmSettings(kind="svm", costs=(1.0,), pooling=("mean", "max"), normalise=True),
    }
    fitted = {n: fit_head(train.store, train.table, n, s, LabelSettings(), seed=0) for n, s in of_kind.items()}
    assert tuple(made | fitted) == KINDS
    return made | fitted


@pytest.fixture(scope="module")
def stores(val, tmp_path_factory):
    """The rows of `val` in parts of few rows, so that a picture lies in three of them, and of many."""
    folder = tmp_path_factory.mktemp("parts")
    cut = {n: seal_store(folder / f"{n}.zarr", val.table, val.rows, part_rows=n) for n in (2, 1000)}
    return {**cut, 16: val.store}


def bytes_of(scores, path) -> bytes:
    save_scores(scores, path)
    return path.read_bytes()


def shares_of(scoring, count, folder):
    """Columns of all shares, by way of their files."""
    ranges = []
    for index in range(1, count + 1):
        of_share = []
        for head, columns in enumerate(scoring.score(scoring.share(index, count))):
            made_from = {**scoring.made_from(head), "share": f"{index}/{count}"}
            save_share(columns, made_from, 1.0, folder / f"{head}-{index}of{count}.h5")
            of_share.append(load_share(made_from, folder / f"{head}-{index}of{count}.h5")[0])
        ranges.append(of_share)
    return ranges


# ---- the same bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "part_rows", "some"),
    [
        *((count, 16, False) for count in (1, 2, 3, 4, 7)),
        *((count, 2, False) for count in (3, 7)),
        (2, 1000, False),
        (3, 16, True),
        (4, 2, True),
    ],
)
def test_shares_join_to_the_bytes_of_one_pass(by_kind, val, stores, tmp_path, count, part_rows, some):
    """With `some`, of two thirds of the pictures."""
    wanted = np.arange(21) % 3 > 0 if some else None
    store, heads = stores[part_rows], list(by_kind.values())
    at_once = score_split(store, val.table, heads, AGGREGATIONS, wanted)

    scoring = SplitScoring(store, val.table, heads, AGGREGATIONS, wanted)
    joined = scoring.join(shares_of(scoring, count, tmp_path))

    for one, other, kind in zip(joined, at_once, KINDS, strict=True):
        assert bytes_of(one, tmp_path / "a.h5") == bytes_of(other, tmp_path / "b.h5"), kind
        assert one.aggregations == other.aggregations and one.facts == other.facts
    assert some or joined[0].peak_xy is not None


@settings(deadline=None, max_examples=40 if TORTURE else 15)
@given(st.sets(st.integers(0, 21), max_size=6), st.sampled_from([2, 16]), st.sampled_from(KINDS))
def test_any_ranges_join_to_the_bits_of_one_pass(by_kind, val, stores, cuts, part_rows, kind):
    scoring = SplitScoring(stores[part_rows], val.table, [by_kind[kind]], AGGREGATIONS)
    edges = [0, *sorted(cuts), 21]

    (joined,) = scoring.join([scoring.score(range(a, b)) for a, b in zip(edges[:-1], edges[1:], strict=True)])

    (at_once,) = score_split(stores[part_rows], val.table, [by_kind[kind]], AGGREGATIONS)
    assert joined.scores.tobytes() == at_once.scores.tobytes()
    assert (joined.peak_xy is None) == (at_once.peak_xy is None)
    assert joined.peak_xy is None or joined.peak_xy.tobytes() == at_once.peak_xy.tobytes()


def test_pictures_straddle_the_edges_of_shares(val, stores):
    """What the tests above rest on: a share whose first picture begins in a part of the share before."""
    first_row = val.table.first_row
    for part_rows in (2, 16):
        store = stores[part_rows]
        scoring = SplitScoring(store, val.table, [], AGGREGATIONS)
        starts = {store.parts[len(store.parts) * i // 3].start for i in (1, 2)}
        assert starts - set(first_row.tolist())
        assert sum(len(scoring.share(i, 3)) for i in (1, 2, 3)) == 21
    assert max(np.diff(first_row)) > 4  # more than two parts of two rows


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 7), st.integers(1, 15))
def test_every_picture_lies_in_one_share(n_rows, part_rows, count):
    """Also pictures without rows, and shares without pictures."""
    assume(any(n_rows))
    first_row = np.concatenate([[0], np.cumsum(n_rows)])
    identity = SimpleNamespace(n_rows=int(first_row[-1]), part_rows=part_rows, dtype="float16")
    scoring = SplitScoring.__new__(SplitScoring)
    scoring.store = SimpleNamespace(parts=parts_of(identity))
    scoring.table = SimpleNamespace(ids=tuple(n_rows))
    scoring._first_row = first_row

    shares = [scoring.share(i, count) for i in range(1, count + 1)]

    assert [picture for share in shares for picture in share] == list(range(len(n_rows)))
    assert sum(scoring.n_rows(share) for share in shares) == sum(n_rows)


def test_parts_of_a_share_are_read_and_no_others(by_kind, val, stores, monkeypatch):
    scoring = SplitScoring(stores[16], val.table, [by_kind["fcb"]], AGGREGATIONS)
    read, read_part = [], type(stores[16]).read_part
    monkeypatch.setattr(
        type(stores[16]), "read_part", lambda self, part: read.append(part.index) or read_part(self, part)
    )
    rows = []

    scoring.score(scoring.share(2, 4), advance=rows.append)

    n_parts = len(stores[16].parts)
    own = list(range(n_parts // 4, n_parts * 2 // 4))
    assert sorted(read) in (own, [*own, own[-1] + 1])  # and the one in which its last picture ends
    assert sum(rows) == scoring.n_rows(scoring.share(2, 4))


# ---- the file of a share ---------------------------------------------------------------------------


@pytest.fixture
def share(by_kind, val, tmp_path):
    scoring = SplitScoring(val.store, val.table, [by_kind["fcb"]], AGGREGATIONS)
    made_from = {**scoring.made_from(0), "share": "2/3"}
    (columns,) = scoring.score(scoring.share(2, 3))
    save_share(columns, made_from, 2.5, tmp_path / "s.h5")
    return SimpleNamespace(made_from=made_from, columns=columns, path=tmp_path / "s.h5")


def test_a_share_is_read_as_it_was_written(share):
    columns, seconds = load_share(share.made_from, share.path)

    assert seconds == 2.5 and columns.keys() == share.columns.keys() == {"scores", "peak_xy"}
    for name, values in columns.items():
        assert values.dtype == share.columns[name].dtype and values.tobytes() == share.columns[name].tobytes()


def test_a_share_of_something_else_is_refused(share, by_kind, heads, val):
    other_head = replace(by_kind["fcb"], network=heads["fca"].network)
    others = {
        "weights": SplitScoring(val.store, val.table, [other_head], AGGREGATIONS),
        "annotations": SplitScoring(
            val.store, replace(val.table, annotation_digest="1" * 64), [by_kind["fcb"]], AGGREGATIONS
        ),
        "aggregations": SplitScoring(val.store, val.table, [by_kind["fcb"]], (1.0,)),
        "scored": SplitScoring(val.store, val.table, [by_kind["fcb"]], AGGREGATIONS, np.ones(21, bool)),
    }
    for field, scoring in others.items():
        with pytest.raises(StoreError, match=rf"s\.h5: made from something else\n(.*\n)*?  - {field}: got "):
            load_share({**scoring.made_from(0), "share": "2/3"}, share.path)
    for field, value in {"share": "2/4", "fingerprint": "0", "rows": "0", "pictures": "0"}.items():
        with pytest.raises(StoreError, match=rf"made from something else\n  - {field}: got '.*', expected '{value}'"):
            load_share({**share.made_from, field: value}, share.path)


def test_a_damaged_share_is_refused(share):
    data = share.path.read_bytes()
    for position in np.linspace(0, len(data) - 1, 50).astype(int).tolist():
        share.path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(StoreError, match=r"s\.h5: damaged: changed since it was written"):
            load_share(share.made_from, share.path)
    share.path.write_bytes(data)
    os.truncate(share.path, len(data) // 2)
    with pytest.raises(StoreError, match=r"s\.h5: damaged"):
        load_share(share.made_from, share.path)
    share.path.unlink()
    with pytest.raises(StoreError, match=r"s\.h5: no such share of scores"):
        load_share(share.made_from, share.path)
