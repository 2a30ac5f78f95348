"""Scores of a split: from rows to the file, for one head and for several."""

import json
import os
from copy import deepcopy
from dataclasses import replace

import h5py
import numpy as np
import pytest
from support.heads import fit_head
from torch import nn

from pipeline.head.file import load_head, save_head
from pipeline.head.head import Head
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import HeadSettings, SvmSettings, WeakSettings
from pipeline.io.checksummed import USER_BLOCK, checksum_hdf5
from pipeline.io.errors import HeadError, StoreError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.score import score_split
from pipeline.scoring.scores import ScoreFacts, SplitScores
from pipeline.scoring.scores_file import load_scores, save_scores

KS = (1.0, 5.0, "max")


def parsed(values) -> tuple[Aggregation, ...]:
    return tuple(map(Aggregation.parse, values))


def scores_in_numpy(head: Head, made, k) -> np.ndarray:
    """From the arrays of a head and the rows alone: standardise, FCa, ReLU, FCb, softmax, mean of powers."""
    state = {name: tensor.numpy().astype(float) for name, tensor in head.network.state_dict().items()}
    x = (made.rows.astype(float) - state["mean"]) * state["inv_std"]
    names = sorted({name.split(".")[1] for name in state if name.startswith("layers.")}, key=int)
    for n in names:
        x = x @ state[f"layers.{n}.weight"].T + state[f"layers.{n}.bias"]
        if n != names[-1]:
            x = np.maximum(x, 0)
    exponentials = np.exp(x - x.max(1, keepdims=True))
    y = (exponentials / exponentials.sum(1, keepdims=True))[:, :-1]
    out = []
    for picture in range(len(made.table.ids)):
        of_picture = y[made.table.picture == picture]
        out.append(of_picture.max(0) if k == "max" else (of_picture**k).mean(0))
    return np.array(out)


@pytest.fixture(scope="module")
def scored(val, heads) -> list[SplitScores]:
    return score_split(val.store, val.table, list(heads.values()), KS)


@pytest.fixture(scope="module")
def scores(scored) -> SplitScores:
    return scored[0]


def test_pictures_straddle_parts(val):
    """What the other tests rest on."""
    edges = [part.start for part in val.store.parts[1:]]
    assert len(edges) >= 3
    assert any(val.table.picture[edge] == val.table.picture[edge - 1] for edge in edges)


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("index", [0, 1])
def test_same_as_numpy(scored, heads, val, k, index):
    expected = scores_in_numpy(list(heads.values())[index], val, k)

    np.testing.assert_allclose(scored[index].by(k), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("k", KS)
def test_bfloat16_stays_within_its_rounding(heads, val, k):
    """8 bits of significand: a relative 2**-8 of each product; a power k multiplies the relative error by k."""
    head = deepcopy(heads["fca"])
    head.network.precision = "bf16"

    (scored,) = score_split(val.store, val.table, [head], (k,))

    exact = scores_in_numpy(head, val, k)
    powers = 1 if k == "max" else k
    np.testing.assert_allclose(scored.by(k), exact, rtol=powers * 2**-6, atol=1e-6)
    assert not np.allclose(scored.by(k), exact, rtol=1e-5), "computed in float32 after all"


@pytest.mark.parametrize("name", ["fca", "fcb"])
def test_a_fitted_head_ranks_pictures_it_has_not_seen(heads, val, name):
    (scores,) = score_split(val.store, val.table, [heads[name]], KS)

    mean, _ = mean_average_precision(scores.by(5.0), val.table.picture_labels, "voc12")
    assert mean > 0.95
    # Against itself with the classes exchanged it must fail: the labels do matter.
    assert mean_average_precision(scores.by(5.0)[:, ::-1], val.table.picture_labels, "voc12")[0] < 0.8


def test_several_heads_in_one_pass_are_each_as_alone(scored, heads, val):
    for together, head in zip(scored, heads.values(), strict=True):
        (alone,) = score_split(val.store, val.table, [head], KS)
        np.testing.assert_array_equal(together.scores, alone.scores)
        assert together.facts == alone.facts


def test_a_head_read_from_its_file_scores_the_same(scored, heads, val, tmp_path):
    save_head(heads["fca"], tmp_path / "h")

    (again,) = score_split(val.store, val.table, [load_head(tmp_path / "h")], KS)

    np.testing.assert_array_equal(again.scores, scored[0].scores)


def test_what_scores_say_of_themselves(scores, heads, val):
    assert scores.ids == val.table.ids and scores.classes == val.table.classes
    assert scores.scores.shape == (3, 21, 3) and scores.aggregations == parsed(KS)
    assert scores.facts.fingerprint == val.store.fingerprint
    assert scores.facts.head == heads["fca"].facts
    assert (scores.facts.dataset, scores.facts.split) == ("made", "val")


def test_round_trip_of_the_facts(scores):
    joined = replace(scores.facts, n_scored=7, joined={"recipe": "both", "by": "rank"})
    for facts in (scores.facts, joined):
        assert ScoreFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts
    with pytest.raises(KeyError):
        ScoreFacts.from_dict({})


def test_python_users_write_aggregations_as_settings_do(scores):
    for k in KS:
        assert np.array_equal(scores.by(k), scores.by(Aggregation.parse(k)))
    assert scores.resolve(5) == Aggregation("power", 5.0)


def test_an_aggregation_that_was_not_computed(scores):
    with pytest.raises(HeadError, match=r"no scores for k=3 by head 'fca'; choose k among 1, 5, max"):
        scores.by(3.0)


# ---- heads with other kinds of scores -------------------------------------------------------------------------


class MeanPooled(nn.Module):
    """A head of one vector a picture: the mean of its rows, times a matrix."""

    score_kind = "pooled"

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.weight = weight

    def accumulator(self, pictures: range) -> "MeanPooled.Accumulator":
        return self.Accumulator(len(self.weight), pictures)

    def picture_scores(self, columns) -> np.ndarray:
        return columns["mean"] @ self.weight

    class Accumulator:
        def __init__(self, width: int, pictures: range) -> None:
            self.pictures = pictures
            self.sums, self.counts = np.zeros((len(pictures), width)), np.zeros((len(pictures), 1))

        def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
            inside = np.isin(picture, self.pictures)
            np.add.at(self.sums, picture[inside] - self.pictures.start, rows[inside].astype(float))
            np.add.at(self.counts, picture[inside] - self.pictures.start, 1)

        def columns(self) -> dict[str, np.ndarray]:
            with np.errstate(invalid="ignore"):
                return {"mean": self.sums / self.counts}


@pytest.fixture
def by_score_kind(heads) -> dict[str, Head]:
    """The same weights, read as softmax, as probability of each class by itself, and as log-odds; and a pooled head."""
    facts = heads["fcb"].facts
    made = {"softmax": heads["fcb"]}
    for score_kind in ("logistic", "log-odds"):
        network = HeadNetwork(6, 3, HeadSettings(hidden=()), score_kind).eval()
        network.load_state_dict(
            {name: v[:3] if name.startswith("layers") else v for name, v in heads["fcb"].network.state_dict().items()}
        )
        made[score_kind] = Head(network, facts)
    return {**made, "pooled": Head(MeanPooled(np.eye(6)[:, :3]), facts)}


def test_each_head_has_the_aggregations_that_apply_to_its_scores(by_score_kind, val):
    wanted = np.arange(21) % 2 == 0
    asked = (1.0, 5.0, "max", "top:2", "lme:4", "pooled")

    scored = score_split(val.store, val.table, list(by_score_kind.values()), asked, wanted)

    assert [s.aggregations for s in scored] == [*map(parsed, (asked[:-1], asked[:-1], asked[2:-1], ("pooled",)))]
    for scores, head in zip(scored, by_score_kind.values(), strict=True):
        (alone,) = score_split(val.store, val.table, [head], asked, wanted)
        np.testing.assert_array_equal(scores.scores, alone.scores)
        assert np.isfinite(scores.scores[:, wanted]).all() and np.isnan(scores.scores[:, ~wanted]).all()
    _, logistic, log_odds, pooled = scored
    np.testing.assert_allclose(logistic.by("max"), 1 / (1 + np.exp(-log_odds.by("max"))), rtol=1e-5)
    expected = [val.rows[val.table.picture == p, :3].astype(float).mean(0) for p in np.flatnonzero(wanted)]
    np.testing.assert_allclose(pooled.by("pooled")[wanted], expected, rtol=1e-9)


def test_fitted_heads_of_three_kinds_share_one_pass(heads, train, val):
    settings = {
        "weak": WeakSettings(kind="weak", hidden=(), top=2, batch=4, max_epochs=(10, 2), dropout=0.0),
        "svm": SvmSettings(kind="svm", costs=(1.0,)),
    }
    others = [fit_head(train.store, train.table, n, s, LabelSettings(), seed=0) for n, s in settings.items()]

    scored = score_split(val.store, val.table, [heads["fcb"], *others], (5.0, "top:2"))

    assert [s.aggregations for s in scored] == [*map(parsed, ((5.0, "top:2"), ("top:2",), ("pooled",)))]
    for scores in scored:
        mean, _ = mean_average_precision(scores.by(scores.aggregations[-1]), val.table.picture_labels, "voc12")
        assert mean > 0.9


def test_scores_of_any_scale_have_a_file(by_score_kind, val, tmp_path):
    for scores in score_split(val.store, val.table, list(by_score_kind.values()), (5.0, "top:2")):
        save_scores(scores, tmp_path / "s.h5")

        assert load_scores(tmp_path / "s.h5").aggregations == scores.aggregations


def test_no_aggregation_that_applies(by_score_kind, val):
    with pytest.raises(
        HeadError, match="'fcb' gives log-odds scores: expected an aggregation max, top:T or lme:R, got 1, 5; add"
    ):
        score_split(val.store, val.table, [by_score_kind["softmax"], by_score_kind["log-odds"]], (1.0, 5.0))
    with pytest.raises(HeadError, match="softmax scores: .* max, top:T or lme:R or a power, got pooled; add"):
        score_split(val.store, val.table, [by_score_kind["softmax"]], ("pooled",))


# ---- refused ---------------------------------------------------------------------------------------


def test_rows_made_in_another_way(heads, make, tmp_path):
    made = make.store(tmp_path / "s.zarr", make.table("val", 4), **{"how.precision": "cuda-fp16"})

    with pytest.raises(HeadError, match="how.precision: got 'cuda-fp16', expected 'cpu-fp32'"):
        score_split(made.store, made.table, list(heads.values()), KS)


def test_one_head_of_several_that_does_not_fit(heads, val):
    other = Head(heads["fcb"].network, replace(heads["fcb"].facts, how={**heads["fcb"].facts.how, "how.layer": "fc6"}))

    with pytest.raises(HeadError, match=r"head 'fcb' was fitted on[\s\S]*how.layer: got 'fc7', expected 'fc6'"):
        score_split(val.store, val.table, [heads["fca"], other], KS)


def test_a_table_of_other_rows(heads, val, make):
    with pytest.raises(StoreError, match=r"other rows than the patch table of made val"):
        score_split(val.store, make.table("val", 20), list(heads.values()), KS)


@pytest.mark.parametrize("classes", [("cat", "dog", "wolf"), ("dog", "cat", "fish")])
def test_other_classes(heads, val, classes):
    with pytest.raises(HeadError, match="must be the same, in the same order"):
        score_split(val.store, replace(val.table, classes=classes), list(heads.values()), KS)


# ---- the file --------------------------------------------------------------------------------------


@pytest.fixture
def path(scores, tmp_path):
    save_scores(scores, tmp_path / "scores.h5")
    return tmp_path / "scores.h5"


def test_round_trip(scores, path):
    loaded = load_scores(path)

    np.testing.assert_array_equal(loaded.scores, scores.scores)
    assert (loaded.aggregations, loaded.ids, loaded.classes) == (scores.aggregations, scores.ids, scores.classes)
    assert loaded.facts == scores.facts
    save_scores(loaded, path.with_name("again.h5"))
    assert path.with_name("again.h5").read_bytes() == path.read_bytes()


def test_missing_scores_survive_the_file(scores, tmp_path):
    values = scores.scores.copy()
    values[:, 3] = np.nan
    save_scores(replace(scores, scores=values), tmp_path / "s.h5")

    np.testing.assert_array_equal(load_scores(tmp_path / "s.h5").scores, values)


def test_no_file(tmp_path):
    with pytest.raises(StoreError, match="no such scores; make them with: pipeline score"):
        load_scores(tmp_path / "none.h5")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, share):
    os.truncate(path, int(share * path.stat().st_size))

    with pytest.raises(StoreError, match=r"scores\.h5: .*make it again with: pipeline score"):
        load_scores(path)


def test_a_flipped_bit_is_refused_wherever_it_is(path):
    data = path.read_bytes()
    positions = {*range(0, USER_BLOCK, 7), *np.linspace(0, len(data) - 1, 200).astype(int).tolist()}
    for position in sorted(positions):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(StoreError, match="damaged: changed since it was written: .* with: pipeline score"):
            load_scores(path)

    path.write_bytes(data)
    load_scores(path)


@pytest.mark.parametrize("text", [b"train", b"cpu-fp32", b"val003", b"fish"])
def test_a_changed_word_is_refused(path, text):
    data = path.read_bytes()
    assert text in data
    path.write_bytes(data.replace(text, b"x" * len(text)))

    with pytest.raises(StoreError, match="make it again with: pipeline score"):
        load_scores(path)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w", userblock_size=USER_BLOCK) as file:
        file["scores"] = [1.0]
    with pytest.raises(StoreError, match="damaged: .*make it again with: pipeline score"):
        load_scores(path)

    path.write_bytes(checksum_hdf5(path.read_bytes()))
    with pytest.raises(StoreError, match="not a file of scores"):
        load_scores(path)


def test_scores_of_some_pictures_are_those_of_all(scored, heads, val):
    wanted = np.arange(21) % 3 == 0

    some = score_split(val.store, val.table, list(heads.values()), KS, wanted)

    for one, all_ in zip(some, scored, strict=True):
        np.testing.assert_allclose(one.scores[:, wanted], all_.scores[:, wanted], rtol=1e-6)
        assert np.isnan(one.scores[:, ~wanted]).all()
        assert one.facts == replace(all_.facts, n_scored=7)


def test_no_picture_wanted(heads, val):
    (scores,) = score_split(val.store, val.table, [heads["fca"]], KS, np.zeros(21, bool))

    assert scores.scores.shape == (3, 21, 3) and np.isnan(scores.scores).all()
