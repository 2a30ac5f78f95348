"""Tables of results: the same numbers in every form, the best marked, and what a paper cannot print is escaped."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.cli import run_command
from support.dataset import write_annotation

from pipeline.cli.show import print_rows
from pipeline.views.tables.results import make_tables
from pipeline.views.tables.table import Column, ResultTable
from pipeline.views.tables.write import FORMATS


def shown(folder: Path, *argv: str) -> str:
    ended = run_command(folder, "show", *argv)
    assert ended.code == 0, ended.err
    return ended.out


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_and_json_of_a_comparison_are_the_numbers_of_its_file(stepped):
    folder, _ = stepped
    recipes = json.loads((folder / "results/tiny_compare.json").read_text())["recipes"]
    rows = rows_of(shown(folder, "results/tiny_compare.json", "--format", "csv"))
    records = json.loads(shown(folder, "results/tiny_compare.json", "--format", "json"))
    assert [row["recipe"] for row in rows] == [recipe["name"] for recipe in recipes] == ["strong", "svm", "strong+svm"]
    for row, record, recipe in zip(rows, records, recipes, strict=True):
        expected = {
            "mAP": recipe["mAP"],
            "std": recipe["std"],
            "interval_low": recipe["interval"]["low"],
            "interval_high": recipe["interval"]["high"],
        }
        if recipe["name"] != "strong":  # the reference
            pairs = {"difference": "difference", "difference_low": "low", "difference_high": "high"}
            expected |= {name: recipe["difference"][key] for name, key in pairs.items()}
        assert {name: record[name] for name in expected} == expected
        assert {name: float(row[name]) if row[name] else None for name in expected} == expected
    assert rows[0]["difference"] == "" and records[0]["difference"] is None


def test_a_result_has_a_row_per_class_and_the_mean(stepped):
    folder, _ = stepped
    result = json.loads((folder / "results/tiny_map.json").read_text())
    rows = rows_of(shown(folder, "results/tiny_map.json", "--format", "csv"))
    assert {row["class"]: float(row["AP"]) for row in rows} == {**result["AP"], "mAP": result["mAP"]}
    latex = shown(folder, "results/tiny_map.json", "--format", "latex")
    assert latex.count(r"\midrule") == 2 and rf"mAP & {100 * result['mAP']:.1f} &" in latex
    assert r"\textbf" not in latex  # of a single system nothing is the best


def test_one_table_of_classes_has_a_row_per_system(stepped):
    folder, _ = stepped
    heads = json.loads((folder / "results/tiny_heads.json").read_text())["recipes"]
    rows = rows_of(shown(folder, "results/tiny_heads.json", "--format", "csv", "--per-class"))
    for row, recipe in zip(rows, heads, strict=True):
        assert row["head"] == recipe["name"] and float(row["mAP"]) == recipe["mAP"]
        assert {name: float(row[f"AP_{name}"]) for name in ("ball", "crate")} == recipe["AP"]
    runs = sorted(str(path) for path in (folder / "results/runs").glob("tiny-fc[ab]-*/map.json"))
    joined = rows_of(shown(folder, *runs, "--format", "csv", "--per-class"))
    results = [json.loads(Path(path).read_text()) for path in runs]
    assert [float(row["mAP"]) for row in joined] == [result["mAP"] for result in results]
    assert len(joined) > 1
    noted = [{**result, "notes": ["not the official splits", f"of {n}"]} for n, result in enumerate(results)]
    (table,) = make_tables(noted, per_class=True)
    assert table.notes[:3] == ("not the official splits", "of 0", "of 1")


def test_a_sweep_says_what_was_chosen(stepped):
    folder, _ = stepped
    swept = json.loads((folder / "results/tiny_sweep.json").read_text())
    rows = rows_of(shown(folder, "results/tiny_sweep.json", "--format", "csv"))
    assert [row["chosen"] for row in rows].count("1") == 1 and len(rows) == len(swept["rows"])
    (chosen,) = (row for row in rows if row["chosen"] == "1")
    assert (chosen["head"], chosen["k"]) == (swept["chosen"]["head"], swept["chosen"]["k"])
    assert shown(folder, "results/tiny_sweep.json", "--format", "markdown").count("<- chosen") == 1


def test_markdown_and_latex_have_the_same_cells(stepped):
    """And those of the terminal: what is shown is made in one place."""
    folder, _ = stepped
    files = [f"results/tiny_{name}.json" for name in ("map", "heads", "compare", "sweep")]
    for file in files:
        markdown, latex = (shown(folder, file, "--format", form) for form in ("markdown", "latex"))
        of_markdown = [line[2:-2].split(" | ") for line in markdown.splitlines() if line.startswith("|")]
        of_latex = [line.removesuffix(r" \\").split(" & ") for line in latex.splitlines() if line.endswith(r"\\")]
        plain = [[cell.replace("**", "").strip() for cell in row] for row in [of_markdown[0], *of_markdown[2:]]]
        bare = [
            [re.sub(r"\\textbf\{(.*)\}", r"\1", cell).replace("\\", "").replace("textless{}", "<") for cell in row]
            for row in of_latex
        ]
        assert plain == [[cell.strip() for cell in row] for row in bare], file
        terminal = run_command(folder, "show", file).out
        assert all(cell in terminal for row in bare[1:] for cell in row if cell[:1].isdigit()), file


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["results/tiny_map.json", "--per-class"], "--per-class needs --format"),
        (["results/tiny_sweep.json", "--format", "csv", "--per-class"], "a sweep has no AP by class"),
        (["config.yaml", "--format", "csv"], "config.yaml: cannot be read as a result"),
        (["data_manifests", "--format", "csv"], "cannot be read as a result"),
        (["broken.json", "--format", "csv"], "broken.json: not a result of this program: KeyError"),
        (
            ["results/tiny_map.json", "other.json", "--format", "csv", "--per-class"],
            "results of different split, metric",
        ),
    ],
)
def test_what_is_refused(run_in, stepped, tmp_path, argv, words):
    folder, _ = stepped
    other = json.loads((folder / "results/tiny_map.json").read_text()) | {"split": "train", "metric": "voc07"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    (tmp_path / "broken.json").write_text('{"mAP": 1}')
    argv = [str(tmp_path / word) if word in ("other.json", "broken.json") else word for word in argv]
    ended = run_in(folder, "show", *argv)
    assert ended.code == 2 and words in ended.err


TABLE = ResultTable(
    "100 % of_it",
    (Column("name", "na|me & co"), Column("share", "share", "share", has_best=True), Column("i", "i", "interval")),
    [["a|b_c", 0.47561, {"low": 0.4, "high": 0.5}], ["~x\ny", 0.47559, None], ["c", None, {"low": None, "high": None}]],
    notes=("50 % & more",),
)


def test_the_best_are_those_that_look_the_best():
    assert TABLE.is_best() == [[False, True, False], [False, True, False], [False, False, False]]


def test_markdown():
    assert FORMATS["markdown"]([TABLE]).splitlines() == [
        "100 % of_it",
        "",
        r"| na\|me & co | share | i |",
        "| :-- | --: | --: |",
        r"| a\|b_c | **47.6** | 40.0 to 50.0 |",
        "| ~x y | **47.6** | - |",
        "| c | - | - |",
        "",
        "- 50 % & more",
    ]


def test_latex():
    assert FORMATS["latex"]([TABLE]).splitlines() == [
        "% 100 % of_it",
        "% 50 % & more",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"na\textbar{}me \& co & share & i \\",
        r"\midrule",
        r"a\textbar{}b\_c & \textbf{47.6} & 40.0 to 50.0 \\",
        r"\textasciitilde{}x y & \textbf{47.6} & - \\",
        r"c & - & - \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


SHARES = st.one_of(st.none(), st.floats(0, 1))
CELLS = st.tuples(
    st.text('a1,;"\n\r| é'), SHARES, st.one_of(st.none(), st.fixed_dictionaries({"low": SHARES, "high": SHARES}))
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CELLS, max_size=5))
def test_csv_gives_every_cell_back(rows):
    table = ResultTable("t", TABLE.columns, rows)
    read = list(csv.reader(io.StringIO(FORMATS["csv"]([table]), newline="")))
    assert read[0] == ["name", "share", "i_low", "i_high"]
    for cells, (name, share, interval) in zip(read[1:], rows, strict=True):
        ends = [interval[key] if interval else None for key in ("low", "high")]
        assert cells == [name, *("" if value is None else str(value) for value in (share, *ends))]


# ---- all results of a folder


def test_all_results_are_in_one_flat_table(stepped):
    folder, _ = stepped
    ended = run_command(folder, *["results", "ls", "--format", "csv"])
    rows = rows_of(ended.out)
    runs, recipes = (list((folder / "results").glob(p)) for p in ("runs/*/map.json", "recipes/*.json"))
    assert ended.code == 0 and len(rows) == len(runs) + len(recipes) > 3
    for row in rows:
        result = json.loads((folder / row["file"]).read_text())
        assert float(row["mAP"]) == result["mAP"] and row["dataset"] == "tiny"
        assert row["fit_fingerprint"] == result["fingerprints"].get("fit", "")
    maps = [float(row["mAP"]) for row in rows]
    assert maps == sorted(maps, reverse=True)
    assert json.loads(run_command(folder, *["results", "ls", "--format", "json"]).out)[0]["mAP"] == maps[0]
    table = run_command(folder, *["results", "ls", "--dataset", "tiny"])
    assert table.code == 0 and f"{100 * maps[0]:.1f}" in table.out
    assert "0 results" in run_command(folder, *["results", "ls", "--dataset", "other"]).out


@pytest.mark.parametrize("broken_by", ["{}", "its mAP is text"])
def test_a_file_that_is_no_result_is_named(work, broken_by):
    broken = next((work / "results/runs").glob("*/map.json"))
    content = json.dumps({**json.loads(broken.read_text()), "mAP": "high"}) if broken_by != "{}" else "{}"
    broken.write_text(content)
    ended = run_command(work, *["results", "ls", "--format", "csv"])
    assert ended.code == 0 and f"NOTE: {broken.relative_to(work)}: left out, not a result" in ended.err
    missing = run_command(work, *["results", "ls", "--results", "nowhere"])
    assert missing.code == 2 and "nowhere: no such folder; results are made with: pipeline evaluate" in missing.err


def test_folders_whose_names_begin_with_a_tilde_are_found_again(work):
    (work / "~x").mkdir()
    for name in ("cache", "results"):
        (work / name).rename(work / "~x" / name)
    config = yaml.safe_load((work / "config.yaml").read_text())
    (work / "tilde.yaml").write_text(yaml.safe_dump({**config, "cache": "./~x/cache", "results": "./~x/results"}))
    ended = run_command(work, *["evaluate", "--dataset", "tiny", "--config", "tilde.yaml", "--output", "map.json"])
    assert ended.code == 0, ended.err
    shown = run_command(work, "show", "map.json")
    assert shown.code == 0 and "stale" not in shown.err, shown.err


# ---- the charts of a report


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("metric", "voc07", "measured by voc12, and the manifest says metric: voc07"),
        ("fit", "val", "fitted on 'train', and the manifest says fit: val"),
        ("classes", ["crate", "ball"], "the manifest has other classes: crate, ball"),
        ("unscored", ["ball"], "the manifest has other classes: crate"),
    ],
)
def test_results_that_the_manifest_contradicts_are_said_to_be_stale(work, key, value, words):
    manifest = work / "data_manifests/tiny.yaml"
    files = [f"results/tiny_{name}.json" for name in ("map", "compare", "heads")]
    assert "stale" not in run_command(work, "show", *files).err + run_command(work, "results", "ls").err

    manifest.write_text(yaml.safe_dump({**yaml.safe_load(manifest.read_text()), key: value}))

    shown, listed = run_command(work, "show", *files), run_command(work, "results", "ls")
    assert shown.code == listed.code == 0
    assert [line for line in shown.err.splitlines() if line] == [f"NOTE: {file}: stale: {words}" for file in files]
    assert len(re.findall(f"NOTE: results/runs/.*/map.json: stale: {words}", listed.err)) >= 2
    assert "stale" not in run_command(work, "results", "ls", "--dataset", "other").err


def change_picture(work: Path) -> None:
    file = work / "data/tiny/JPEGImages/q1.png"
    Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)


def change_annotation(work: Path) -> None:
    write_annotation(work / "data/tiny/Annotations/p1.xml", ["ball"])


def remove_heads(work: Path) -> None:
    for file in (work / "results/heads").glob("*.safetensors"):
        file.unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_picture, "tiny val: pictures changed: q1"),
        (change_annotation, "tiny train: annotations or lists changed"),
        (remove_heads, "it has not been fitted yet"),
    ],
)
def test_results_that_another_run_would_change_are_said_to_be_stale(work, change, words):
    """Results of seven sets of settings: which ones, the names of their files prove."""
    files = [f"results/tiny_{name}.json" for name in ("map", "compare", "heads")]
    before = run_command(work, "results", "ls")
    change(work)
    shown, listed = run_command(work, "show", *files), run_command(work, "results", "ls")

    assert shown.code == listed.code == 0 and listed.out == before.out
    for file in files:
        assert re.search(f"NOTE: {file}: stale: .*{words}", shown.err), shown.err
    n_results = len([*(work / "results").glob("runs/*/map.json"), *(work / "results").glob("recipes/*.json")])
    assert len(re.findall(f"NOTE: results/.*: stale: .*{words}", listed.err)) == n_results > 10


def test_a_copy_of_a_result_that_was_measured_again_is_stale(work):
    change_picture(work)
    for line in ("extract --split val", "score", "evaluate --k max"):
        argv = (*line.split(), "--dataset", "tiny", "--config", "config.yaml")
        assert run_command(work, *argv).code == 0
    copy = json.loads((work / "results/tiny_map.json").read_text())

    shown = run_command(work, "show", "results/tiny_map.json", copy["paths"]["result"])
    (note,) = (line for line in shown.err.splitlines() if line)
    assert note.startswith("NOTE: results/tiny_map.json: stale: " + copy["paths"]["result"])
    assert "was evaluated again since, and differs: " in note and "fingerprints" in note


def test_trunks_that_are_drawn_anew_for_each_seed_make_no_outcome_stale(work):
    line = "recipe run random --dataset tiny --config config.yaml"
    assert run_command(work, *line.split()).code == 0
    (outcome,) = (work / "results/recipes").glob("tiny-random-*.json")
    assert "stale" not in run_command(work, "show", str(outcome.relative_to(work))).err
    assert "stale" not in run_command(work, "results", "ls").err


def test_a_result_of_another_folder_is_not_compared_with_files_of_this_one(work, stepped, tmp_path):
    change_picture(work)
    for line in ("extract --split val", "score", "evaluate --k max"):
        argv = (*line.split(), "--dataset", "tiny", "--config", "config.yaml")
        assert run_command(work, *argv).code == 0
    other = stepped[0] / "results"
    assert "stale" not in run_command(work, "show", str(other / "tiny_map.json")).err
    assert "stale" not in run_command(work, "results", "ls", "--results", str(other)).err


def test_without_the_files_of_a_run_its_result_is_only_compared_with_the_manifest(work):
    change_picture(work)
    (work / "cache").rename(work / "away")
    shown = run_command(work, "show", "results/tiny_map.json")
    assert shown.code == 0 and not shown.err.strip()


@pytest.mark.long
def test_charts_are_files_of_equal_bytes(work):
    line = "report --dataset tiny --head fca --config config.yaml"
    for folder in ("one", "two"):
        ended = run_command(work, *line.split(), "--figures", folder)
        assert ended.code == 0, ended.err
    files = sorted(path.name for path in (work / "one").iterdir())
    names = ["comparison", "k_sweep", "loss", "precision_recall_ball", "precision_recall_crate"]
    assert files == sorted(f"{name}.{form}" for name in names for form in ("pdf", "svg"))
    for name in files:
        data = (work / "one" / name).read_bytes()
        assert data == (work / "two" / name).read_bytes()
        assert data.startswith(b"%PDF") if name.endswith("pdf") else b"<svg" in data and b"currentColor" not in data


def test_names_are_printed_as_they_are(capsys):
    """Square brackets and colons are no styles and no pictures."""
    names = ["dog [small]", "cat [a]", "x[/b]", "a :cat: b"]
    table = ResultTable("T", (Column("class", "class"), Column("AP", "AP", "share")), [[n, 0.5] for n in names])
    print_rows(table)
    printed = capsys.readouterr().out
    assert [name for name in names if name not in printed] == []
