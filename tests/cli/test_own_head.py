"""Heads of a user's own: the page that shows them is run; what a class can do wrong is refused by name."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import Normalizer
from support.cli import run_command
from support.examples import CHECKOUT

import pipeline
from pipeline.head.facts import read_facts
from pipeline.head.file import load_head
from pipeline.io.errors import HeadError

PAGE = CHECKOUT / "docs/how-to/own-head.md"


def block_of(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)
    return next(block for block in blocks if containing in block)


CODE = block_of("python", "class Logistic")
PICTURES = """
import numpy as np

class Mine:
    def __init__(self, width, n_classes, shift=0.0):
        self.mean = np.zeros((n_classes, width))
    def fit(self, vectors, labels, seed):
        for c in range(labels.shape[1]):
            self.mean[c] = vectors[labels[:, c] == 1].mean(0) - vectors[labels[:, c] == -1].mean(0)
    def picture_scores(self, vectors):
        return vectors @ self.mean.T
    def state_dict(self):
        return {"inv_std": self.mean}
    def load_state_dict(self, state):
        self.mean = state["inv_std"]
"""


@pytest.fixture(scope="module")
def folder(stepped, tmp_path_factory) -> Path:
    """The folder of all steps, with the page's classes and settings."""
    path = tmp_path_factory.mktemp("own") / "work"
    shutil.copytree(stepped[0], path)
    (path / "my_heads.py").write_text(CODE)
    write_config(path, yaml.safe_load(block_of("yaml", "logistic+svm")))
    return path


def write_config(path: Path, further: dict, name: str = "own.yaml") -> None:
    config = yaml.safe_load((path / "config.yaml").read_text())
    both = {key: {**config.get(key, {}), **further.get(key, {})} for key in ("heads", "recipes")}
    (path / name).write_text(yaml.safe_dump({**config, **further, **both}))


def files_of(folder: Path, head: str) -> list[Path]:
    return sorted((folder / "results/heads").glob(f"tiny-{head}-*.safetensors"))


@pytest.fixture(scope="module")
def page_run(folder) -> dict[str, dict]:
    """The commands of the page, in turn; what they wrote."""
    lines = [line for line in block_of("sh", "--recipe logistic").splitlines() if line]
    for line in lines:
        ended = run_command(folder, *line.replace("demo", "tiny").split()[1:])
        assert ended.code == 0, f"{line}\n{ended.err}"
    comparison = json.loads((folder / "results/tiny_compare.json").read_text())
    return {row["name"]: row for row in comparison["recipes"]}


def test_the_page_runs_and_its_heads_stand_beside_ours(folder, page_run):
    assert list(page_run) == ["logistic", "small", "logistic+svm", "svm"]
    assert all(row["mAP"] is not None for row in page_run.values())
    assert page_run["logistic"]["k"] == "pooled" and page_run["small"]["k"] != "pooled"
    page = run_command(folder, *["report", "--dataset", "tiny", "--config", "own.yaml", "--head", "small"])
    assert page.code == 0, page.err
    assert "logistic" in (folder / "results/tiny_report.html").read_text()


def test_the_page_s_regression_is_scikit_learn_s_on_the_same_rows(folder, page_run, monkeypatch):
    monkeypatch.chdir(folder)
    train, val = (pipeline.open_features("tiny", split, "own.yaml") for split in ("train", "val"))
    scores = pipeline.load_scores("tiny", head="logistic", config="own.yaml")
    (vectors, unseen) = (
        np.hstack([Normalizer().fit_transform(split.pooled(pool)) for pool in ("mean", "max")])
        for split in (train, val)
    )
    for column, of_class in enumerate(train.picture_labels.T):
        model = LogisticRegression(C=10.0, max_iter=1000).fit(vectors, of_class)
        assert np.allclose(scores.by("pooled")[:, column], model.decision_function(unseen), atol=1e-4)


def test_a_changed_class_is_due_again_and_its_head_refused(folder, page_run, monkeypatch):
    monkeypatch.chdir(folder)
    line = ["fit-head", "--dataset", "tiny", "--head", "logistic", "--config", "own.yaml"]
    before = files_of(folder, "logistic")
    kept = {file: file.read_bytes() for file in before}
    (folder / "my_heads.py").write_text(CODE.replace("max_iter=1000", "max_iter=2000"))
    try:
        assert run_command(folder, *line).code == 0
        assert len(files_of(folder, "logistic")) == len(before) + 1
        assert all(file.read_bytes() == data for file, data in kept.items())
        with pytest.raises(HeadError, match="other sources than"):
            load_head(before[0])
        ended = run_command(folder, *["cache", "verify", "--config", "own.yaml"])
        assert ended.code == 0, ended.out + ended.err
    finally:
        (folder / "my_heads.py").write_text(CODE)
    assert run_command(folder, *line).code == 0
    assert all(
        file.read_bytes() == data for file, data in kept.items()
    )  # the same class, seed and rows: the same bytes


def test_a_helper_beside_the_module_and_parameters_are_part_of_the_head(folder):
    (folder / "helped.py").write_text(
        "from my_helper import SHIFT\n" + PICTURES.replace("@ self.mean.T", "@ self.mean.T + SHIFT")
    )
    names = set()
    for shift, parameters in ((0.0, {}), (1.0, {}), (1.0, {"shift": 1.0})):
        (folder / "my_helper.py").write_text(f"SHIFT = {shift}\n")
        write_config(
            folder, {"heads": {"mine": {"kind": "code", "code": "helped:Mine", "parameters": parameters}}}, "h.yaml"
        )
        ended = run_command(folder, *["fit-head", "--dataset", "tiny", "--head", "mine", "--config", "h.yaml"])
        assert ended.code == 0, ended.err
        names |= {file.name for file in files_of(folder, "mine")}
    assert len(names) == 3
    assert len({read_facts(file).settings["sha256"] for file in files_of(folder, "mine")}) == 2


WRONG = {
    "no module": (None, {"code": "nowhere_at_all:Mine"}, "no module 'nowhere_at_all'"),
    "no class": (PICTURES, {"code": "wrong:Min"}, "no class 'Min'; known: Mine"),
    "neither form": (PICTURES, {"code": "wrong"}, "no entry point 'wrong' in the group pipeline.heads"),
    "not a name": (PICTURES, {"code": "a-b:Mine"}, "expected module:Class"),
    "no Python": ("def broken(:", {}, "line 1: cannot be read as Python"),
    "raises at import": (PICTURES + "\n1 / 0\n", {}, "cannot be imported: ZeroDivisionError"),
    "lacks a method": (PICTURES.replace("def picture_scores", "def scores"), {}, "the class lacks picture_scores"),
    "other parameters": (PICTURES, {"parameters": {"C": 3}}, "the class takes (width, n_classes, shift=0.0)"),
    "raises in fit": (PICTURES.replace("self.mean[c] =", "1 / 0 *"), {}, "Mine.fit: ZeroDivisionError"),
    "wrong shape": (PICTURES.replace("@ self.mean.T", "@ self.mean.T[:, :1]"), {}, "expected shape (6, 2)"),
    "wrong dtype": (PICTURES.replace("@ self.mean.T", "@ self.mean.T > 0"), {}, "got an array of bool"),
    "a list": (PICTURES.replace("vectors @ self.mean.T", "(vectors @ self.mean.T).tolist()"), {}, "got list"),
    "NaN": (PICTURES.replace("@ self.mean.T", "@ self.mean.T * np.nan"), {}, "6 of 6 rows of scores hold NaN"),
    "state is no array": (PICTURES.replace(': self.mean}', ': self.fit}'), {}, "expected an array of numbers"),
    "state lacks something": (
        PICTURES.replace("self.mean = state", "_ = state"), {}, "does not give the same scores again",
    ),
    "other sources": (PICTURES, {"sha256": "0" * 64}, "has other sources than those of sha256 000000000000"),
    "shadowed": (PICTURES, {"code": "statistics:Mine"}, "two modules are called 'statistics'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_a_class_does_wrong_is_refused_by_name(folder, case):
    code, settings, problem = WRONG[case]
    module = settings.get("code", "wrong:Mine").partition(":")[0]
    file = folder / f"{module}.py"
    if code is not None and module.isidentifier():
        file.write_text(code)
    write_config(folder, {"heads": {"mine": {"kind": "code", "code": "wrong:Mine", **settings}}}, "wrong.yaml")
    try:
        ended = run_command(folder, *["fit-head", "--dataset", "tiny", "--head", "mine", "--config", "wrong.yaml"])
    finally:
        file.unlink(missing_ok=True)
    assert ended.code == 2 and problem in ended.err, ended.err
    assert "Traceback" not in ended.err


def test_patch_scores_out_of_range_are_refused_unless_they_are_log_odds(folder):
    (folder / "far.py").write_text(CODE.replace(".softmax(1)[:, :-1]", "[:, :-1] * 100"))
    head = {"kind": "code", "code": "far:Small", "takes": "patches", "parameters": {"epochs": 1}}
    write_config(folder, {"heads": {"far": head}}, "far.yaml")
    line = "fit-head --dataset tiny --head far --config far.yaml"
    refused = run_command(folder, *line.split())
    assert refused.code == 2 and "score_kind logistic says scores in 0..1" in refused.err
    write_config(folder, {"heads": {"far": {**head, "score_kind": "log-odds"}}}, "far.yaml")
    for each in (line, line.replace("fit-head", "score"), line.replace("fit-head", "evaluate") + " --output far.json"):
        ended = run_command(folder, *each.split())
        assert ended.code == 0, ended.err
    assert json.loads((folder / "far.json").read_text())["k"] == "max"
