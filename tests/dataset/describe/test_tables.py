"""Tables as tools and spreadsheets write them: what a field means is told, or asked about."""

import unicodedata
from pathlib import Path

import pytest
from support.own_pictures import draw, write

from pipeline.dataset.describe.table import TableOptions, describe_table
from pipeline.dataset.fetch import check
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split, state_of_split
from pipeline.io.errors import DatasetError, SettingsError


@pytest.fixture
def root(tmp_path) -> Path:
    draw(tmp_path / "own", *(f"{k}.jpg" for k in range(8)))
    return tmp_path / "own"


def describe(root: Path, *lines: str, folder: Path | None = None, **options: str) -> tuple[object, list[str]]:
    said: list[str] = []
    table = write(root, "t.csv", "\n".join(lines) + "\n")
    describe_table(table, folder, "own", root.parent / "m", TableOptions(overwrite=True, **options), said.append)
    return load_manifest("own", root.parent / "m"), said


def labels_of(manifest: object) -> dict[str, set[str]]:
    """Classes of each picture, over all splits."""
    of = {}
    for split in manifest.splits:
        content = read_split(manifest, split)
        for i, row in zip(content.ids, content.labels, strict=True):
            of[i] = {name for name, value in zip(manifest.classes, row, strict=True) if value == 1}
    return of


SEVERAL = {
    "|": ("cat|pet", "dog|pet"),
    ";": ("cat;pet", "dog; pet"),
    "list": ("\"['cat', 'pet']\"", '"[""dog"", ""pet""]"'),
    ",": ('"cat,pet"', '"dog, pet"'),
    "+": ("cat+pet", "dog + pet"),
}


@pytest.mark.parametrize("separator", SEVERAL)
def test_several_labels_in_a_field_are_asked_about(root, separator):
    one, other = SEVERAL[separator]
    lines = ["picture,label", *(f"{k}.jpg,{(one, other)[k % 2]}" for k in range(8))]

    with pytest.raises(DatasetError, match=r"several labels, or one\?[\s\S]*--label-separator none"):
        describe(root, *lines)
    manifest, _ = describe(root, *lines, label_separator=separator)

    assert manifest.classes == ("cat", "dog", "pet") and manifest.label_separator == separator
    assert labels_of(manifest) == {str(k): {("cat", "dog")[k % 2], "pet"} for k in range(8)}
    assert not any(set("|;+[") & set(name) for name in manifest.classes)


def test_one_label_whatever_it_holds(root):
    manifest, _ = describe(
        root, "picture,label", *(f"{k}.jpg,{('a|b', 'c')[k % 2]}" for k in range(8)), label_separator="none"
    )
    assert manifest.classes == ("a|b", "c") and manifest.label_separator is None
    assert labels_of(manifest)["0"] == {"a|b"}


def test_a_comma_in_a_name_is_no_separator(root):
    manifest, _ = describe(root, "picture,label", *(f'{k}.jpg,"{("tulip, red", "rose")[k % 2]}"' for k in range(8)))
    assert manifest.classes == ("rose", "tulip, red")


def test_equal_rows_count_once_and_are_said(root):
    lines = ["picture,label", *(f"{k}.jpg,{'ab'[k % 2]}" for k in range(8)), "0.jpg,a", "./1.jpg,b"]

    manifest, said = describe(root, *lines)

    assert sorted(labels_of(manifest)) == [str(k) for k in range(8)]
    assert any("2 rows repeat another" in line and "line 10 repeats line 2: 0.jpg" in line for line in said)


def test_a_row_per_label_is_several_labels(root):
    lines = ["picture,label", *(f"{k}.jpg,{'ab'[k % 2]}" for k in range(8)), "0.jpg,b", "0.jpg,c"]

    manifest, said = describe(root, *lines)

    assert labels_of(manifest)["0"] == {"a", "b", "c"} and labels_of(manifest)["1"] == {"b"}
    assert any("1 pictures have several rows with different labels" in line for line in said)
    assert check(manifest).ok


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("picture,a", "0.jpg,1", "1.jpg,0", "0.jpg,0"), "line 4: 0.jpg: other values than on line 2"),
        (
            ("picture,label,split", "0.jpg,a,train", "1.jpg,b,val", "0.jpg,a,val"),
            "line 4: 0.jpg: split 'val', on line 2 'train'",
        ),
    ],
)
def test_rows_that_contradict_each_other_are_refused(root, lines, message):
    with pytest.raises(DatasetError, match=message):
        describe(root, *lines)


UNCERTAIN = ("picture,edema", *(f"{k}.jpg,{('1.0', '0.0', '-1.0', '')[k % 4]}" for k in range(8)))


@pytest.mark.parametrize(
    ("options", "meaning"),
    [
        ({"minus_one": "unknown"}, {"1.0": 1, "0.0": -1, "-1.0": 0, "": 0}),
        ({"zero": "absent", "minus_one": "unknown"}, {"1.0": 1, "0.0": -1, "-1.0": 0, "": 0}),
        ({"zero": "unknown", "minus_one": "absent"}, {"1.0": 1, "0.0": 0, "-1.0": -1, "": 0}),
        ({"zero": "absent", "minus_one": "absent"}, {"1.0": 1, "0.0": -1, "-1.0": -1, "": 0}),
    ],
)
def test_what_minus_one_and_zero_mean_is_asked(root, options, meaning):
    with pytest.raises(DatasetError, match="uncertain as in CheXpert"):
        describe(root, *UNCERTAIN)
    manifest, _ = describe(root, *UNCERTAIN, **options)

    found = {}
    for split in ("train", "val"):
        content = read_split(manifest, split)
        found |= {i: int(row[0]) for i, row in zip(content.ids, content.labels, strict=True)}
    assert found == {str(k): meaning[("1.0", "0.0", "-1.0", "")[k % 4]] for k in range(8)}


def test_minus_one_and_one_alone_are_absent_and_present(root):
    manifest, said = describe(root, "picture,a,b", *(f"{k}.jpg,{1 - 2 * (k % 2)},1" for k in range(8)))
    assert labels_of(manifest)["1"] == {"b"} and any("-1: absent" in line for line in said)


def test_what_minus_one_means_is_part_of_the_digest(root):
    manifest, _ = describe(root, *UNCERTAIN, minus_one="unknown")
    other = manifest.model_copy(update={"minus_one": "absent"})
    assert read_split(other, "train").annotation_digest != read_split(manifest, "train").annotation_digest
    assert state_of_split(other, "train") != state_of_split(manifest, "train")


def test_the_first_line_of_excel_is_passed_over(root):
    manifest, _ = describe(root, "sep=;", "picture;label", *(f"{k}.jpg;{'ab'[k % 2]}" for k in range(8)))
    assert manifest.classes == ("a", "b")
    with pytest.raises(DatasetError, match=r"line 4: .*x.jpg.*: expected a path below"):
        describe(root, "sep=;", "picture;label", "0.jpg;a", "../x.jpg;b")
    with pytest.raises(DatasetError, match="line 6: '../x.jpg': expected a path below"):
        describe(root, "", "  ", "picture;label", "0.jpg;a", "   ", "../x.jpg;b")


@pytest.mark.parametrize("header", ["file_name", "filename", "image", "path", "Picture", "image_path"])
def test_a_column_like_picture_is_named(root, header):
    with pytest.raises(DatasetError, match=f"no column 'picture'.*rename '{header}' to 'picture'"):
        describe(root, f"{header},label", "0.jpg,a", "1.jpg,b")


def test_a_column_like_label_is_named(root):
    with pytest.raises(DatasetError, match="such as 'class' under this name"):
        describe(root, "picture,class", "0.jpg,a", "1.jpg,b")


def test_pictures_and_splits_alone_are_told_what_is_missing(root):
    with pytest.raises(DatasetError, match="columns picture and split, and none with labels: add a column 'label'"):
        describe(root, "picture,split", "0.jpg,train", "1.jpg,val")


def test_absolute_paths_through_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    lines = ("picture,label", *(f"{tmp_path}/link/{k}.jpg,{'ab'[k % 2]}" for k in range(8)))

    manifest, _ = describe(root, *lines, folder=tmp_path / "link")

    assert sorted(labels_of(manifest)) == [str(k) for k in range(8)] and check(manifest).ok
    with pytest.raises(DatasetError, match="expected a path below"):
        describe(root, "picture,label", f"{tmp_path}/elsewhere/0.jpg,a", "1.jpg,b")


@pytest.mark.parametrize(("table", "files"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
def test_names_match_in_both_unicode_forms(tmp_path, table, files):
    root, names = tmp_path / "own", [f"caf\u00e9/\u00fc{k}.jpg" for k in range(6)]
    draw(root, *(unicodedata.normalize(files, name) for name in names))

    manifest, _ = describe(
        root, "picture,label", *(f"{unicodedata.normalize(table, name)},{'ab'[k % 2]}" for k, name in enumerate(names))
    )

    assert len(labels_of(manifest)) == 6 and check(manifest).ok
    assert all(path.is_file() for split in ("train", "val") for path in read_split(manifest, split).paths)


def test_splits_by_other_names(root):
    splits = ("training", "validation", "")
    manifest, said = describe(
        root, "picture,label,split", *(f"{k}.jpg,{'ab'[k // 3 % 2]},{splits[k % 3]}" for k in range(8))
    )
    assert (manifest.fit, manifest.eval) == ("training", "validation")
    assert any("left out, 2 pictures without a split" in line for line in said)


def test_keys_of_a_table_go_with_tables_alone(root):
    describe(root, *UNCERTAIN, minus_one="unknown")
    path = root.parent / "m" / "own.yaml"
    text = path.read_text().replace("layout: table", "layout: folders").replace("table: t.csv\n", "")
    path.write_text(text)
    with pytest.raises(SettingsError, match="minus_one"):
        load_manifest("own", root.parent / "m")


# ---- as spreadsheets and libraries write them

ROWS = ["picture,cat,dog", *(f"{k}.jpg,{(1, 0)[k % 2]},{(0, 1)[k % 2]}" for k in range(8))]
BOTH = {str(k): {("cat", "dog")[k % 2]} for k in range(8)}


def respell(one: str, zero: str) -> list[str]:
    return [ROWS[0], *(f"{k}.jpg,{(one, zero)[k % 2]},{(zero, one)[k % 2]}" for k in range(8))]


@pytest.mark.parametrize(("one", "zero"), [("1.00", "0.0"), ("1e0", "0"), ("True", "False"), ("TRUE", "false")])
def test_values_are_read_in_every_spelling(root, one, zero):
    manifest, _ = describe(root, *respell(one, zero))

    assert labels_of(manifest) == BOTH


@pytest.mark.parametrize("word", ["NaN", "nan", "NA", "null", "None", ""])
def test_words_for_nothing_are_unknown(root, word):
    manifest, said = describe(root, *respell("1", word))

    assert any("nothing: unknown" in line for line in said)
    assert {0, 1} == {int(x) for split in manifest.splits for x in read_split(manifest, split).labels.flat}


@pytest.mark.parametrize("value", ["0.8", "100%", "2", "x", "1_0", "inf"])
def test_other_values_are_refused(root, value):
    with pytest.raises(DatasetError, match=f"line 2: column cat: expected 1, 0, -1 or nothing, got '{value}'"):
        describe(root, *respell(value, "0"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_marked_encodings_are_read(root, encoding):
    (root / "t.csv").write_bytes("\n".join(ROWS).encode(encoding))

    describe_table(root / "t.csv", None, "own", root.parent / "m", TableOptions(), lambda line: None)

    assert labels_of(load_manifest("own", root.parent / "m")) == BOTH


@pytest.mark.parametrize(
    "lines",
    [
        [f"{line},," for line in ROWS],
        [ROWS[0], *(f"{line},," for line in ROWS[1:])],
        [f",{line}" for line in ROWS],
        [line.replace(",", "|") for line in ROWS],
    ],
    ids=["empty columns", "in the rows alone", "before the first", "bars"],
)
def test_columns_without_name_and_value_are_passed_over(root, lines):
    manifest, _ = describe(root, *lines)

    assert manifest.classes == ("cat", "dog") and labels_of(manifest) == BOTH


def test_one_picture_under_two_paths_is_one(root):
    lines = ["picture,label", *(f"{k}.jpg,{('cat', 'dog')[k % 2]}" for k in range(8))]

    manifest, said = describe(root, *lines, "./0.jpg,cat", f"{root}//0.jpg,cat")

    assert labels_of(manifest) == BOTH
    assert any("2 rows repeat another" in line and "line 10 repeats line 2" in line for line in said)


def test_labels_of_words_that_all_recur_are_asked_about(root):
    several = ["clear primary", "haze primary", "clear road primary", "haze road"]
    one = ["golden retriever", "labrador retriever", "hot dog", "dog"]

    with pytest.raises(DatasetError, match="label 'clear primary' holds ' ': several labels, or one?"):
        describe(root, "picture,label", *(f"{k}.jpg,{several[k % 4]}" for k in range(8)))
    manifest, _ = describe(root, "picture,label", *(f"{k}.jpg,{one[k % 4]}" for k in range(8)))

    assert set(manifest.classes) == set(one)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["picture,label", "0.jpg,a"], {"zero": "absent"}, "--zero and --minus-one go with a column per class"),
        (["picture,label", "0.jpg,a"], {"label_separator": ""}, "expected a sign between labels"),
        (ROWS, {"label_separator": "|"}, "--label-separator goes with a column 'label'"),
    ],
)
def test_options_without_effect_are_refused(root, lines, options, message):
    with pytest.raises(SettingsError, match=message):
        describe(root, *lines, **options)


def test_classes_of_one_picture_are_said(root):
    names = ["a", "a", "b", "b", "c", "d", "a", "b"]

    _, said = describe(root, "picture,label", *(f"{k}.jpg,{name}" for k, name in enumerate(names)))

    assert any("2 of 4 classes have one picture each" in line and "'c', 'd'" in line for line in said)


@pytest.mark.parametrize("column", ["subset", "Fold", "is_test", "usage"])
def test_a_column_that_seems_to_tell_the_split_is_asked_about(root, column):
    rows = [f"{k}.jpg,{('cat', 'dog')[k % 2]},{k // 6}" for k in range(8)]

    with pytest.raises(DatasetError, match=f"no column 'split', but '{column}', which seems to tell the split"):
        describe(root, f"picture,label,{column}", *rows)

    columns = [f"{k}.jpg,{k % 2},{1 - k % 2},{k // 6}" for k in range(8)]  # else a class of this name
    with pytest.raises(DatasetError, match="name it 'split', with the values train and val"):
        describe(root, f"picture,cat,dog,{column}", *columns)

    stated = [f"{k}.jpg,{('cat', 'dog')[k % 2]},{('train', 'val')[k // 6]},{k}" for k in range(8)]
    manifest, _ = describe(root, f"picture,label,split,{column}", *stated)
    assert {split: entry.pictures for split, entry in manifest.splits.items()} == {"train": 6, "val": 2}


def test_splits_that_differ_by_capitals_are_not_several(root):
    splits = ["Train", "train", "train", "train", "train", "train", "val", "val"]
    rows = [f"{k}.jpg,{('cat', 'dog')[k % 2]},{split}" for k, split in enumerate(splits)]

    with pytest.raises(DatasetError, match="column split: Train, train differ by capitals alone"):
        describe(root, "picture,label,split", *rows)


def test_classes_of_one_number_are_said(root):
    rows = [f"{k}.jpg,{('1', '1.0', '02', '3')[k % 4]}" for k in range(8)]

    manifest, said = describe(root, "picture,label", *rows)

    assert len(manifest.classes) == 4
    assert [line for line in said if "look alike" in line] == [
        "NOTE: classes that look alike are told apart: '1', '1.0'; if one is meant, rename"
    ]
