"""The table of synsets: what lies below what, mistyped nodes, tables of other forms, and how it is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.trunk.pretrain.synsets import PAPER_NODES, Synsets, read_synsets

ROOT = Path(__file__).parents[3]
SYNSETS = Synsets(
    {
        "n00000001": ("thing",),
        "n00000002": ("animal", "beast"),
        "n00000003": ("crane", "wading bird"),
        "n00000004": ("machine",),
        "n00000005": ("crane", "lifting device"),
        "n00000006": ("toy animal",),
    },
    {
        "n00000001": (),
        "n00000002": ("n00000001",),
        "n00000003": ("n00000002",),
        "n00000004": ("n00000001",),
        "n00000005": ("n00000004",),
        "n00000006": ("n00000002", "n00000004"),
    },
)


@pytest.fixture(scope="module")
def shipped():
    return read_synsets()


def test_below_is_the_node_and_all_kinds_of_it_by_every_parent():
    assert SYNSETS.below("n00000002") == {"n00000002", "n00000003", "n00000006"}
    assert SYNSETS.below("n00000004") == {"n00000004", "n00000005", "n00000006"}
    assert SYNSETS.below("n00000005") == {"n00000005"}
    assert SYNSETS.below("n00000001") == set(SYNSETS.names)


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=12), st.integers(0, 11))
def test_below_agrees_with_climbing_from_every_synset(drawn, start):
    # Parents point to earlier synsets only, as kinds do.
    wnids = [f"n{i:08d}" for i in range(len(drawn))]
    parents = {
        w: tuple({wnids[p % i] for p in ps}) if i else () for i, (w, ps) in enumerate(zip(wnids, drawn, strict=True))
    }
    root = wnids[start % len(wnids)]

    def climbs(wnid: str) -> bool:
        return wnid == root or any(climbs(parent) for parent in parents[wnid])

    assert Synsets({w: (w,) for w in wnids}, parents).below(root) == {w for w in wnids if climbs(w)}


def test_nodes_are_found_by_any_name_in_any_case_or_by_number():
    assert SYNSETS.find(["Beast", "n00000005", "wading  bird"]) == ["n00000002", "n00000005", "n00000003"]


def test_all_bad_nodes_are_named_with_close_ones():
    with pytest.raises(DatasetError) as caught:
        SYNSETS.find(["machin", "crane", "animal", "zzz"])
    text = str(caught.value)
    assert "'machin' is not among the 6 synsets of the table; close: machine" in text
    assert "'crane' names 2 synsets" in text
    assert "n00000003, a kind of animal; n00000005, a kind of machine" in text
    assert "'zzz' is not among the 6 synsets of the table\n" in text + "\n"
    assert "'animal'" not in text


def test_the_shipped_table_has_the_nodes_of_the_paper(shipped):
    found = dict(zip(PAPER_NODES, shipped.find(PAPER_NODES), strict=True))
    assert found["hoofed mammal"] == "n02370806"
    assert found["bicycle"] == "n02834778"
    zebra, ox, school_bus, chair = "n02391049", "n02403003", "n04146614", "n03001627"
    assert {zebra, ox} <= shipped.below(found["hoofed mammal"])
    assert chair in shipped.below(found["furniture"])
    assert school_bus in shipped.below(found["public transport"])
    assert zebra not in shipped.below(found["furniture"])


def test_every_shipped_synset_is_a_kind_of_the_one_root(shipped):
    assert [wnid for wnid, parents in shipped.parents.items() if not parents] == ["n00001740"]
    assert shipped.below("n00001740") == set(shipped.names)
    assert len(shipped.names) > 2000


TABLES = {
    "no tabs": ("n00000001 thing", r"line 1: 'n00000001 thing'"),
    "twice": ("n00000001\tthing\t\nn00000001\tthing\t", "line 2:"),
    "no number": ("dog\tdog\t", "line 1:"),
    "lost parent": ("# notice\nn00000001\tthing\tn00000009", "n00000001: its parent n00000009 is not in the table"),
}


@pytest.mark.parametrize("what", TABLES)
def test_a_table_of_another_form_is_refused(tmp_path, what):
    text, message = TABLES[what]
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_synsets(tmp_path / "t.tsv")


def test_no_table(tmp_path):
    with pytest.raises(MissingDataError, match="no such table of synsets"):
        read_synsets(tmp_path / "t.tsv")
    (tmp_path / "t.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="not text in UTF-8"):
        read_synsets(tmp_path / "t.tsv")


# In the form of WordNet's data.noun: a notice, then offset, file, type, names, pointers, gloss.
DATA_NOUN = """  1 A notice of the licence.
  2
00000100 03 n 01 thing 0 001 ~ 00000200 n 0000 | what there is
00000200 05 n 02 animal 0 wild_beast 1 003 @ 00000100 n 0000 ~ 00000300 n 0000 + 00000900 v 0101 | it lives
00000300 05 n 01 crane 0 001 @ 00000200 n 0000 | a bird
00000400 05 n 01 Dolly 0 001 @i 00000200 n 0000 | a sheep
00000500 06 n 01 machine 0 001 @ 00000100 n 0000 | it works
"""


@pytest.fixture
def make(tmp_path):
    (tmp_path / "data.noun").write_text(DATA_NOUN)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / "tools/make_synsets.py", tmp_path, *options]
        ended = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
        (tmp_path / "made.tsv").write_text(ended.stdout)
        return ended

    return run


def test_a_table_is_made_from_the_folder_of_a_wordnet(tmp_path, make):
    ended = make()
    assert ended.returncode == 0, ended.stderr
    assert "# A notice of the licence." in ended.stdout
    made = read_synsets(tmp_path / "made.tsv")
    assert made.names["n00000200"] == ("animal", "wild beast")
    assert made.parents["n00000200"] == ("n00000100",)
    assert made.below("n00000200") == {"n00000200", "n00000300", "n00000400"}
    assert len(made.names) == 5


def test_a_table_of_some_classes_holds_what_they_are_kinds_of(tmp_path, make):
    (tmp_path / "list.txt").write_text("n00000500 machine\n")
    assert make("--below", "wild beast", "--classes", str(tmp_path / "list.txt")).returncode == 0
    assert len(read_synsets(tmp_path / "made.tsv").names) == 5
    assert make("--classes", str(tmp_path / "list.txt")).returncode == 0
    assert set(read_synsets(tmp_path / "made.tsv").names) == {"n00000100", "n00000500"}
    (tmp_path / "list.txt").write_text("n00000501\n")
    assert "1 listed classes are no nouns" in make("--classes", str(tmp_path / "list.txt")).stderr
