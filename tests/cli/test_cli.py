"""What each command prints, leaves and exits with."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from pipeline.activations.part_reader import PartReader
from pipeline.cli.main import COMMANDS, cli
from pipeline.io.errors import PipelineError

# --- step by step


def test_every_step_succeeds(stepped):
    for name, ended in stepped[1].items():
        assert ended.code == 0, (name, ended.err)


def test_data_new_says_what_comes_next(stepped):
    ended = stepped[1]["new"]
    assert ended.out == "data_manifests/tiny.yaml\n"
    assert "train: 6 pictures" in ended.err
    assert "test: 3 pictures, no annotations" in ended.err
    assert "2 classes: ball, crate" in ended.err
    # There is no Snakefile in this folder.
    (line,) = [line for line in ended.err.splitlines() if line.startswith("next: ")]
    assert line.startswith(
        "next: pipeline extract --dataset tiny --split train && pipeline extract --dataset tiny --spl"
    )
    assert line.endswith(" && pipeline score --dataset tiny && pipeline evaluate --dataset tiny")


def test_data_check_ends_with_complete(stepped):
    assert stepped[1]["check"].out.splitlines()[-1] == "complete"


def test_patches_counts_rows_and_labels(stepped):
    out = stepped[1]["patches"].out
    # 64 x 48 pixels: 2 x 1 windows of 48 px and 5 x 3 of 24 px.
    assert re.search(r"pictures +6 +skipped 0\n", out)
    assert re.search(r"patches +102\n", out)
    positive, background, unused = (
        int(re.search(rf"{word} *(\d+)", out)[1]) for word in ("positive", "background", "unused")
    )
    assert positive + background + unused == 102
    assert positive > 0 and background > 0


def test_extract_prints_the_store_and_runs_once(stepped):
    folder, ended = stepped
    path, rows, fingerprint = ended["extract"].out.splitlines()
    assert (folder / path).is_dir() and path.startswith("cache/tiny-train-random0-fc7-")
    assert rows.startswith("  rows 102 x 1024")
    assert fingerprint.split()[1].startswith(Path(path).stem.rpartition("-")[2])
    assert f"{path}: 102 rows to extract, at most " in ended["extract"].err
    assert re.search(rf"{path}: 102 patches in [\d.]+ s .*\n{path}: sealed\n", ended["extract"].err)
    assert ended["extract again"].out == ended["extract"].out
    assert "complete, the trunk does not run" in ended["extract again"].err
    assert len((folder / path.replace(".zarr", ".log.jsonl")).read_text().splitlines()) == 1


def test_fit_head_prints_the_files_of_all_heads(stepped):
    folder, ended = stepped
    paths = ended["fit-head"].out.splitlines()
    assert [Path(p).name.split("-")[1] for p in paths] == ["fca", "fcb"]
    assert all((folder / p).is_file() for p in paths)
    assert "fitted on 6 of 6 pictures" in ended["fit-head"].err
    assert "already" in ended["fit-head again"].err
    counts = r"fit fca: \d+ rows of 1,024 columns, [\d.,]+ KiB: rows in memory; at most [\d.,]+ .iB of memory, "
    assert re.search(counts + r"[\d.,]+ .iB of them held already\n", ended["fit-head"].err)


def test_score_prints_the_files_of_all_heads(stepped):
    folder, ended = stepped
    paths = ended["score"].out.splitlines()
    assert len(paths) == 2 and all((folder / p).is_file() for p in paths)
    assert "4 pictures, 68 patches scored" in ended["score"].err


def test_evaluate_prints_a_table_and_writes_the_result(stepped):
    folder, ended = stepped
    assert "tiny val: head fca on random fc7, k=5" in ended["evaluate"].out
    assert "tiny val: head fcb on random fc7, k=5" in ended["evaluate"].out
    for word in ("ball", "crate", "mAP", "fitted on 6 pictures, measured on 4", "k sweep: 1: "):
        assert word in ended["evaluate"].out
    result = json.loads((folder / "results/tiny_map.json").read_text())
    assert (result["k"], result["head"]) == ("max", "fca")
    assert result["command"].startswith("pipeline evaluate --dataset tiny")
    assert json.loads((folder / result["paths"]["result"]).read_text()) == result


def test_compare_sets_heads_side_by_side(stepped):
    folder, ended = stepped
    joined = json.loads((folder / "results/tiny_heads.json").read_text())
    assert [r["name"] for r in joined["recipes"]] == ["fca", "fcb"]
    assert "tiny val: mAP (voc12) %" in ended["compare"].out
    assert [(r["seeds"], r["std"], r["k"]) for r in joined["recipes"]] == [([0], None, 5.0)] * 2


def test_compare_sets_recipes_side_by_side(stepped):
    folder, ended = stepped
    joined = json.loads((folder / "results/tiny_compare.json").read_text())
    rows = {r["name"]: r for r in joined["recipes"]}
    assert list(rows) == ["strong", "svm", "strong+svm"]
    for row in rows.values():
        assert {"name", "mAP", "std", "seeds", "seconds", "AP", "interval", "difference"} <= set(row)
        assert row["seeds"] == [0, 1] and len(row["runs"]) == 2
        assert row["interval"]["low"] <= row["mAP"] <= row["interval"]["high"]
    assert rows["strong"]["difference"]["difference"] == 0
    assert rows["svm"]["std"] == 0  # nothing in it is drawn
    assert rows["strong"]["choice"]["chosen"] == "held-out"
    assert joined["reference"] == "strong" and joined["published"] == []
    for name in rows:
        assert re.search(rf"\u2502 {re.escape(name)} ", ended["recipes"].out), ended["recipes"].out
    assert "strong: aggregation" in ended["recipes"].err


def test_a_comparison_goes_on_where_it_stopped(run, work):
    again = run("compare --dataset tiny --recipe strong --recipe svm --recipe strong+svm --config config.yaml")
    assert again.code == 0
    assert "fitted on" not in again.err and "scored" not in again.err  # every outcome is there
    outcome = next((work / "results/recipes").glob("tiny-strong-*.json"))
    outcome.unlink()
    resumed = run("recipe run strong --dataset tiny --config config.yaml")
    assert resumed.code == 0
    assert resumed.err.count("there already, for this store and these labels") == 3  # two seeds, and the held-out one
    assert "scored" not in resumed.err
    assert outcome.is_file()


def test_recipes_are_listed_and_shown(run):
    listed, shown = run("recipe ls --config config.yaml"), run("recipe show svm --config config.yaml")
    assert (listed.code, shown.code) == (0, 0)
    for word in ("strong+weak", "fc6-retrained", "PRE-1512U", "head fcb, all else as configured"):
        assert word in listed.out
    block = yaml.safe_load(shown.out)["recipes"]["svm"]
    assert block["head"]["kind"] == "svm" and block["head"]["costs"]


def test_sweep_marks_the_choice_made_on_held_out_pictures(stepped):
    folder, ended = stepped
    swept = json.loads((folder / "results/tiny_sweep.json").read_text())
    assert len(swept["rows"]) == 2 * 2 * 5  # heads, readings, aggregations
    assert swept["chosen"]["held_out_mAP"] == max(row["held_out_mAP"] for row in swept["rows"])
    assert ended["sweep"].out.count("<- chosen") == 1
    assert "held-out fit pictures" in ended["sweep"].err


def test_show_prints_all_kinds_of_results(stepped):
    ended = stepped[1]
    assert ended["evaluate k"].out in ended["show"].out
    assert ended["compare"].out in ended["show"].out
    assert ended["recipes"].out in ended["show"].out
    assert ended["sweep"].out in ended["show"].out


def test_results_go_to_stdout_and_the_rest_to_stderr(stepped):
    for name in ("extract", "fit-head", "score"):
        assert "sealed" not in stepped[1][name].out
        assert "fitted on" not in stepped[1][name].out


# --- a split without labels


def test_split_without_labels_writes_files_for_the_server(run, work):
    for line in (
        "extract --dataset tiny --split test --config config.yaml",
        "score --dataset tiny --split test --config config.yaml",
    ):
        assert run(line).code == 0
    ended = run("evaluate --dataset tiny --split test --config config.yaml")
    assert ended.code == 0, ended.err
    assert "no labels; files for the evaluation server" in ended.out
    files = sorted(work.glob("results/runs/*/devkit/*.txt"))
    assert [p.name for p in files] == ["comp1_cls_test_ball.txt", "comp1_cls_test_crate.txt"]
    for path in files:
        lines = [line.split(" ") for line in path.read_text().splitlines()]
        assert [line[0] for line in lines] == ["t0", "t1", "t2"]
        assert all(0 <= float(line[1]) <= 1 for line in lines)


# --- errors that a user can mend

ERRORS = {
    "unknown dataset": ("patches --dataset tine --split train", "no manifest data_manifests/tine.yaml; known: .*tiny"),
    "unknown split": ("extract --dataset tiny --split trial", "no split 'trial'; there are test, train, val"),
    "unknown head": ("fit-head --dataset tiny --head fcz", r"unknown head 'fcz'; did you mean fcb, fca or fca2\?"),
    "unknown trunk": ("extract --dataset tiny --split val --trunk vgg", "trunk: must be one of alexnet64, .*got 'vgg'"),
    "unknown layer": ("extract --dataset tiny --split val --layer fc8", "trunk random has pool5, fc6, fc7, got 'fc8'"),
    "fp16 on a CPU": (
        "extract --dataset tiny --split val --precision fp16 --device cpu",
        "precision 'fp16': not on a CPU",
    ),
    "k that is no number": ("evaluate --dataset tiny --k five", "--k: expected a number or max, got 'five'"),
    "k that is too small": ("evaluate --dataset tiny --k 0.5", "aggregation: must be a power in 1..100"),
    "not extracted yet": ("fit-head --dataset tiny --layer fc6", "no activations of trunk 'random'.*pipeline extract"),
    "a budget that no fit keeps": (
        "fit-head --dataset tiny --head fca2 --memory 0.01",
        "fit fca2: .* of memory are needed, .* allow more with memory: .* fit-head --memory",
    ),
    "not fitted yet": ("score --dataset tiny --head fca2", "no such head; make it with: pipeline fit-head"),
    "not scored yet": ("evaluate --dataset tiny --head fca2", "no such scores; make them with: pipeline score"),
    "unknown recipe": ("compare --dataset tiny --recipe weka", "unknown recipe 'weka'; did you mean weak"),
    "a recipe of another trunk": (
        "recipe run fc6 --dataset tiny --trunk torchvision/resnet18",
        "recipe 'fc6': trunk 'torchvision/resnet18' has no layer fc6",
    ),
    "no data": ("patches --dataset voc12 --split train", "(?s)you can:.*pipeline data fetch voc12.*make demo"),
}


@pytest.mark.parametrize(
    "line",
    ["fit-head --head fcb", "sweep", "compare --heads", "curve --recipe svm --pictures 3", "ladder --recipe svm"],
)
def test_results_that_cannot_be_written_are_refused_before_a_row_is_read(run, work, monkeypatch, line):
    (work / "blocked").write_text("a file")
    config = yaml.safe_load((work / "config.yaml").read_text())
    (work / "ladder.yaml").write_text(yaml.safe_dump({**config, "ladder": {"random": {"trunk": "random"}}}))
    monkeypatch.setattr(PartReader, "read_part", lambda reader, part: pytest.fail("a row was read"))
    for folder in ("blocked", "blocked/below"):
        ended = run(f"{line} --dataset tiny --config ladder.yaml --results {folder}")
        assert ended.code == 2 and f"{work}/blocked: Not a directory; a file is where a folder" in ended.err, ended.err
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    ended = run(f"{line} --dataset tiny --config ladder.yaml --results elsewhere")
    assert ended.code == 2 and f"{work}: Permission denied; check the rights" in ended.err, ended.err


@pytest.mark.parametrize("what", ERRORS)
def test_mendable_error_is_a_message_and_exit_2(run, what):
    line, message = ERRORS[what]
    ended = run(f"{line} --config config.yaml")
    assert ended.code == 2
    assert re.search(message, ended.err), ended.err
    assert "error: " in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("patches --dataset tiny --split val --config none.yaml", "none.yaml: cannot be read as YAML"),
        ("show results/none.json", "results/none.json: cannot be read as a result"),
        ("show config.yaml", "config.yaml: cannot be read as a result"),
        ("data check tine", "dataset 'tine': no manifest"),
        ("data new --root data/tiny --name tiny", "exists already; choose another --name, or give --overwrite"),
        ("pretrain --train none --val none --out out", "none: no such folder; expected class folders"),
        ("pretrain --train none --val none --out out --epochs 0", "epochs: Input should be greater than or equal to 1"),
    ],
)
def test_errors_of_commands_without_settings(run, line, message):
    ended = run(line)
    assert ended.code == 2
    assert message in ended.err


def test_all_mistakes_in_a_config_are_reported_at_once(run, work):
    (work / "bad.yaml").write_text("{trnk: random, seed: -1, grid: {overlap: 2}, aggregation: true}")
    ended = run("patches --dataset tiny --split val --config bad.yaml")
    assert ended.code == 2
    assert ended.err.startswith("error: bad.yaml: 4 mistake(s)")
    for where in ("trnk:", "seed:", "grid.overlap:", "aggregation:"):
        assert f"  - {where}" in ended.err


def test_usage_errors_exit_2(run):
    for line in ("extract", "fly", "extract --dataset tiny --split val --batch many", "data new --name x"):
        ended = run(line)
        assert ended.code == 2
        assert "Usage:" in ended.err


def test_debug_shows_the_traceback(run):
    with pytest.raises(PipelineError, match="known: "):
        run("--debug patches --dataset tine --split train")


def test_bug_is_not_dressed_up_as_a_message(run, monkeypatch):
    monkeypatch.setattr("pipeline.stages.extract.make", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("extract --dataset tiny --split val --config config.yaml")


def test_interrupt_exits_130_and_says_how_to_go_on(run, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.stages.extract.make", interrupted)
    ended = run("extract --dataset tiny --split val --config config.yaml")
    assert ended.code == 130
    assert "start the same command again" in ended.err


def test_changed_picture_is_found_and_looked_at_again(run, work):
    from PIL import Image

    Image.new("RGB", (64, 48), "green").save(work / "data/tiny/JPEGImages/q0.png")
    ended = run("extract --dataset tiny --split val --config config.yaml")
    assert ended.code == 0
    assert "pictures changed: q0; making it again" in ended.err
    assert re.search(r": 68 patches in .*\n.*\.zarr: sealed\n", ended.err)


def test_damaged_store_is_refused_by_later_commands(run, work):
    shard = next(work.glob("cache/tiny-val-*.zarr")) / "activations/c/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    ended = run("score --dataset tiny --config config.yaml")
    assert ended.code == 2
    assert (
        "activations/c/0/0 changed since it was written; list the damage with: pipeline cache verify, "
        "and repair it with: pipeline cache repair"
    ) in ended.err


def test_stores_may_lie_elsewhere_and_what_killed_runs_left_there_is_swept(run, work):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = work / f"elsewhere/.partial/.0.{platform.node()}.{gone.pid}.0123abcd.partial"
    left.parent.mkdir(parents=True)
    left.touch()

    ended = run("extract --dataset tiny --split val --config config.yaml --stores elsewhere")

    assert ended.code == 0, ended.err
    (store,) = (work / "elsewhere").glob("*.zarr")
    assert ended.out.startswith(f"elsewhere/{store.name}\n")
    assert not list(left.parent.iterdir())
    (same,) = (work / "cache").glob(store.name)
    files = sorted(p.relative_to(store) for p in store.rglob("*") if p.is_file())
    assert files and all((store / name).read_bytes() == (same / name).read_bytes() for name in files)
    assert run("score --dataset tiny --config config.yaml --stores elsewhere").code == 2  # no head is fitted there
    assert len(list((work / "cache/receipts").glob("tiny-val-*.json"))) == 2


@pytest.mark.parametrize("option", ["--cache", "--results"])
def test_folder_that_cannot_be_made(run, work, option):
    (work / "file").touch()
    ended = run(f"evaluate --dataset tiny --config config.yaml {option} file/below")
    assert ended.code == 2
    assert "Traceback" not in ended.err


# --- the real command


def in_shell(*argv):
    command = [Path(sys.executable).parent / "pipeline", *argv]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, timeout=100)


def test_exit_codes_reach_the_shell(tmp_path):
    done = in_shell("patches", "--dataset", "tine", "--split", "train")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: dataset 'tine': no manifest")
    debug = in_shell("--debug", "patches", "--dataset", "tine", "--split", "train")
    assert debug.returncode == 1
    assert "Traceback (most recent call last)" in debug.stderr
    assert "SettingsError: dataset 'tine'" in debug.stderr


def test_listing_the_cache_costs_no_torch(tmp_path):
    code = (
        "import sys; from pipeline.cli.main import cli\n"
        "cli.main(['cache', 'ls'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_help_costs_no_torch():
    code = (
        "import sys; from pipeline.cli.main import cli\n"
        "for args in (['--help'], ['extract', '--help'], ['data', '--help']):\n"
        "    cli.main(args, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules or 'zarr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert list(COMMANDS) == re.findall(
        r"^  ([a-z-]+)  ", done.stdout.partition("Dataset:")[2].partition("Usage")[0], re.M
    )


# --- help


def all_commands(group=cli, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


@pytest.mark.parametrize(
    ("name", "command"), list(all_commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_help_has_a_summary_and_an_example(name, command):
    text = command.get_help(click.Context(command, info_name=name))
    assert re.search(rf"Example:\n +pipeline {name}", text), text
    assert command.get_short_help_str(200)
    for option in command.params:
        assert isinstance(option, click.Argument) or option.help or option.hidden, option.name


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"mAP": 0.5}'])
def test_a_damaged_outcome_is_named_by_compare(work, run, content):
    path = next((work / "results/recipes").glob("tiny-fcb-*.json"))
    path.write_text(content)
    ended = run("compare --dataset tiny --heads --config config.yaml")
    assert ended.code == 2
    assert str(path.relative_to(work)) in ended.err and "pipeline recipe run" in ended.err
