"""Which classes a source task has: all, at random, or a base list and all below nodes."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from pipeline.cli.main import cli
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.trunk.load import load_trunk
from pipeline.trunk.pretrain.classes import choose_at_random, read_class_list, select_classes
from pipeline.trunk.settings import ClassSelection

CAT, DOG, ZEBRA, OX = "n02121808", "n02084071", "n02391049", "n02403003"
CHAIR, DESK, BUS, GOLDFISH = "n03001627", "n03179701", "n04146614", "n01443537"
THERE = (CAT, DOG, ZEBRA, OX, CHAIR, DESK, BUS, GOLDFISH)


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.txt"
    path.write_text(f"# chosen\n{DOG}\tdog, domestic dog\n{GOLDFISH} goldfish\n\n{DOG}\n")
    return str(path)


def select(*there, **selection):
    said = []
    return select_classes(there or THERE, ClassSelection(**selection), said.append), said


def test_all():
    assert select()[0] == tuple(sorted(THERE))


# --- at random


def test_random_is_a_seeded_choice():
    chosen, again, other = (select(select=f"random:4{seed}")[0] for seed in ("", ":0", ":1"))
    assert len(chosen) == 4
    assert chosen == again != other
    assert set(chosen) <= set(THERE)


@given(st.sets(st.integers(0, 10**6), min_size=3, max_size=40), st.data())
def test_one_class_more_changes_at_most_one_choice(numbers, data):
    there = sorted(f"n{i:08d}" for i in numbers)
    n, seed = data.draw(st.integers(1, len(there) - 1)), data.draw(st.integers(0, 5))
    without = choose_at_random(there[1:], n, seed)
    assert len(set(without) - set(choose_at_random(there, n, seed))) <= 1


def test_every_class_has_its_chance():
    counts = dict.fromkeys(THERE, 0)
    for seed in range(200):
        for name in choose_at_random(THERE, 2, seed):
            counts[name] += 1
    assert all(25 <= count <= 80 for count in counts.values())  # 50 expected


def test_more_at_random_than_there_are():
    with pytest.raises(DatasetError, match="random:9: there are 8 classes only"):
        select(select="random:9")


# --- nodes


def test_nodes_add_what_lies_below_them_to_the_base(base):
    chosen, said = select(select="nodes", base=base, below=("hoofed mammal", "furniture"))
    assert chosen == tuple(sorted({DOG, GOLDFISH, ZEBRA, OX, CHAIR, DESK}))
    assert said == ["hoofed mammal (n02370806): 2 classes", "furniture (n03405725): 2 classes"]


def test_without_the_nodes_the_base_alone_is_left(base):
    with_bus, _ = select(select="nodes", base=base, below=("public transport",))
    without, said = select(select="nodes", base=base, below=("bicycle",))
    assert set(with_bus) - set(without) == {BUS}
    assert said == ["bicycle (n02834778): 0 classes"]


def test_nodes_without_a_base_and_with_a_random_one():
    assert set(select(select="nodes", below=("furniture",))[0]) == {CHAIR, DESK}
    chosen, _ = select(select="nodes", base="random:3:5", below=("furniture",))
    assert set(chosen) == {CHAIR, DESK, *choose_at_random(THERE, 3, 5)}


def test_folders_that_the_table_does_not_know_are_said():
    _, said = select(*THERE, "n99999999", "cars", select="nodes", below=("furniture",))
    assert said[0].startswith("NOTE: 2 of 10 class folders are not in the table of synsets (1 of them look like")


def test_a_table_of_the_user_is_used(tmp_path):
    (tmp_path / "t.tsv").write_text(f"n00000001\tpets\t\n{CAT}\tcat\tn00000001\n{DOG}\tdog\tn00000001\n")
    chosen, _ = select(select="nodes", below=("pets",), wordnet=str(tmp_path / "t.tsv"))
    assert set(chosen) == {CAT, DOG}


def test_a_mistyped_node_names_the_close_ones():
    with pytest.raises(DatasetError, match=r"'hoofed mamal' is not among .* close: hoofed mammal"):
        select(select="nodes", below=("hoofed mamal",))


def test_fewer_than_two_classes_are_refused():
    with pytest.raises(DatasetError, match="leaves 1 of 8 classes, expected at least 2"):
        select(select="nodes", below=("public transport",))
    with pytest.raises(DatasetError, match="leaves 0 of 8 classes"):
        select(select="nodes", below=("bicycle",))
    with pytest.raises(DatasetError, match="leaves 1 of 8 classes"):
        select(select="random:1")


def test_names_of_the_base_without_a_folder_are_all_named(base):
    with pytest.raises(DatasetError, match=rf"(?s)2 of 2 have no folder.*{GOLDFISH}.*{DOG}"):
        select(CAT, CHAIR, select="nodes", base=base, below=("furniture",))


def test_lists_that_cannot_be_read(tmp_path):
    with pytest.raises(MissingDataError, match="no such list of classes"):
        read_class_list(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(DatasetError, match="an empty list"):
        read_class_list(tmp_path / "empty.txt")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"select": "some"}, "select must be all, random:N"),
        ({"select": "random:0"}, "select must be all, random:N"),
        ({"select": "nodes"}, "name at least one node with below"),
        ({"below": ("furniture",)}, "belong to select nodes"),
        ({"select": "random:5", "base": "x"}, "belong to select nodes"),
    ],
)
def test_selections_that_make_no_sense(given, message):
    with pytest.raises(ValidationError, match=message):
        ClassSelection(**given)


# --- the command


def test_the_command_trains_on_the_selection_and_the_card_names_it(tmp_path, base):
    for split, names in (("train", THERE), ("val", (*THERE, "n00000000"))):
        for index, name in enumerate(names):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (64, 64), (30 * index, 20 * i, 0)).save(tmp_path / split / name / f"{i}.png")
    line = (
        f"pretrain --train {tmp_path}/train --val {tmp_path}/val --out {tmp_path}/out --name some --epochs 1 "
        f"--batch 4 --threads 1 --fc-width 96 --select nodes --base {base} --below furniture"
    )
    ended = CliRunner().invoke(cli, line.split(), catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    trunk = load_trunk(str(tmp_path / "out/some.yaml"))
    trained = trunk.card.trained
    assert trained["classes"] == sorted([DOG, GOLDFISH, CHAIR, DESK])
    assert trained["source"] == "8 pictures of 4 classes"
    assert trained["selection"] == {"select": "nodes", "base": base, "below": ["furniture"], "wordnet": None}
    assert (trunk.width, trunk.card.layers) == (96, {"pool5": 1152, "fc6": 96, "fc7": 96})

    (tmp_path / "val" / CHAIR).rename(tmp_path / "val/elsewhere")
    with pytest.raises(DatasetError, match=rf"(?s)val: 1 of 4 chosen classes have no folder.*{CHAIR}"):
        CliRunner().invoke(cli, line.split(), catch_exceptions=False)
