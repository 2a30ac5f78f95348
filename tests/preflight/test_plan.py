"""The plan: by hand, against a slow simulation, against a real run, and as a command."""

from __future__ import annotations

import heapq
import importlib.util
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.activations.arrays import geometry_bytes_per_row, metadata_names
from pipeline.activations.part_size import rows_per_part
from pipeline.cli.main import main
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.patches.grid import grid_windows
from pipeline.patches.settings import GridSettings
from pipeline.preflight import plan as plan_module
from pipeline.preflight.costs import Costs, read_costs
from pipeline.preflight.dense import fewer_pixels
from pipeline.preflight.plan import STORE_FILES, Counts, Left, Workers, make_plan, makespan, trunk_rate, worker_speed
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner

ROOT = Path(__file__).resolve().parents[2]
STAGE = {"unit": "row", "startup_s": 2, "unit_s": 0.01, "memory_mib": 100, "memory_bytes_a_row": 10}
STAGE = {**STAGE, "disk_bytes": 1000, "disk_bytes_a_unit": 1, "cores": 2, "measured": "nowhere"}
TRUNK = {"layer": "fc7", "width": 100, "part_rows": 1000, "bytes_a_row": 50, "cut_s": 0.001, "write_s": 0.0005}
TRUNK = {**TRUNK, "extra_mib": 7, "rates": {"cpu-bf16": 400, "cuda-fp16": None}, "cores": 2, "measured": "nowhere"}
COSTS = Costs.model_validate(
    {
        "stages": {
            "patches": {**STAGE, "unit": "picture", "unit_s": 0.1},
            "extract": STAGE,
            "fit-head": {**STAGE, "width": 50},
            "score": STAGE,
        },
        "trunks": {"alexnet64": TRUNK},
        "picture": {"decode_s": 0.1, "memory_bytes": 1000, "measured": "nowhere"},
    }
)
ALEXNET64 = COSTS.trunk("alexnet64", "fc7")


def simulate(parts: int, part_s: float, last_s: float, workers: int, startup_s: float) -> float:
    """An event loop: whoever is free first takes the next part."""
    free = [startup_s] * workers
    end = startup_s
    for part in range(parts):
        now = heapq.heappop(free)
        done = now + (last_s if part == parts - 1 else part_s)
        end = max(end, done)
        heapq.heappush(free, done)
    return end


def load_scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the simulation


@pytest.mark.parametrize(
    ("parts", "workers", "expected"),
    [(1, 1, 5 + 3), (1, 8, 5 + 3), (4, 1, 5 + 30 + 3), (4, 2, 5 + 20), (4, 3, 5 + 10 + 3), (5, 2, 5 + 20 + 3)],
)
def test_makespan_by_hand(parts, workers, expected):
    assert makespan(parts, 10, 3, workers, 5) == expected


whole_s = st.integers(1, 100)


@given(st.integers(1, 60), whole_s, whole_s, st.integers(1, 20), whole_s)
def test_makespan_is_that_of_an_event_loop(parts, part_s, last_s, workers, startup_s):
    last_s = min(part_s, last_s)
    got = makespan(parts, part_s, last_s, workers, startup_s)

    assert got == simulate(parts, part_s, last_s, workers, startup_s)
    assert got >= makespan(parts, part_s, last_s, workers + 1, startup_s)
    assert got <= makespan(parts + 1, part_s, last_s, workers, startup_s)
    if workers == 1:
        assert got == startup_s + (parts - 1) * part_s + last_s


counts = st.builds(lambda n, m: Counts(n, n * m), st.integers(1, 10_000), st.integers(1, 600))


@given(counts, st.integers(1, 1000), st.integers(1, 50), st.booleans())
def test_more_pictures_take_more_of_everything_and_more_workers_less_time(split, more, workers, gpu):
    def of(split: Counts, n: int):
        return make_plan([split], ALEXNET64, 400, Workers(n, 2, gpu), COSTS, price=1.0)

    larger = Counts(split.pictures + more, split.rows + more * split.rows // split.pictures)
    here, there, faster = of(split, workers), of(larger, workers), of(split, workers + 1)

    for name, stage in here.stages.items():
        for field, value in vars(stage).items():
            assert getattr(there.stages[name], field) >= value * (1 - 1e-12), (name, field)
        assert faster.stages[name].hours <= stage.hours * (1 + 1e-12)
        assert faster.stages[name].bytes_expected == stage.bytes_expected
    assert 0 < here.busy < 1


# --- numbers by hand


def test_a_plan_by_hand():
    splits = [Counts(10, 2500), Counts(4, 1000)]

    plan = make_plan(splits, ALEXNET64, rate=400, workers=Workers(2, 2), costs=COSTS, price=3.6)

    # 14 pictures of 0.1 s over 3,500 patches, and 1 ms of cutting: 1.4 ms of one core, on two of them.
    row_s = 1 / 400 + 0.0014 / 2 + 0.0005
    assert plan.speed.together == pytest.approx(1 / row_s)
    assert plan.parts == 3 + 1
    extract = plan.stages["extract"]
    seconds = (2 + 1000 * row_s + 500 * row_s) + (2 + 1000 * row_s)
    assert extract.hours == pytest.approx(seconds / 3600)
    assert extract.dollars == pytest.approx(2 * seconds * 3.6 / 3600)
    assert plan.busy == pytest.approx(3500 * row_s / (2 * seconds))
    assert (extract.bytes_expected, extract.bytes_at_most) == (3500 * 50, 3500 * 221)
    assert extract.files == 4 * 5 + 2 * 9
    assert extract.memory_bytes == 107 * 2**20 + 2500 * 10 + 10 * 1000
    assert plan.stages["patches"].hours == pytest.approx((2 * 2 + 14 * 0.1) / 3600)
    assert plan.stages["fit-head"].hours == pytest.approx((2 + 2500 * 0.01 * 2) / 3600)  # rows twice as wide
    assert plan.stages["score"].hours == pytest.approx((2 + 1000 * 0.01) / 3600)
    assert plan.stages["score"].bytes_expected == 1000 + 1000


def test_a_plan_by_hand_where_rows_are_there_already():
    splits = [Counts(10, 2500), Counts(4, 1000)]
    left = [Left(computed=500, adopted=1700), Left(0)]  # 300 rows are in recorded parts, and the other split is sealed

    plan = make_plan(splits, ALEXNET64, rate=400, workers=Workers(2, 2), costs=COSTS, left=left)

    whole = make_plan(splits, ALEXNET64, rate=400, workers=Workers(2, 2), costs=COSTS)
    row_s = 1 / 400 + 0.0014 / 2 + 0.0005
    part_s = (500 * row_s + 1700 * 0.0005) / 3
    extract = plan.stages["extract"]
    assert plan.parts == 3
    assert extract.hours == pytest.approx((2 + 2 * part_s + 2) / 3600)
    assert plan.busy == pytest.approx(3 * part_s / (2 * (2 + 2 * part_s + 2)))
    assert (extract.bytes_expected, extract.bytes_at_most) == (2200 * 50, 2200 * 221)
    assert extract.files == 3 * 5 + 9
    assert all(plan.stages[name] == whole.stages[name] for name in ("patches", "fit-head", "score"))


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_rows_that_are_there_make_no_plan_longer(computed, adopted):
    def hours(left: Left) -> float:
        counts = [Counts(10, max(1, computed + adopted))]
        return make_plan(counts, ALEXNET64, 400, Workers(1, 2), COSTS, left=[left]).stages["extract"].hours

    mixed = hours(Left(computed, adopted)) * (1 + 1e-9)
    assert hours(Left(computed)) <= mixed and hours(Left(0, adopted)) <= mixed
    assert mixed <= hours(Left(computed + adopted)) * (1 + 1e-8)


def test_parts_follow_from_the_operations_or_from_an_older_table():
    squeezenet = read_costs().trunks["torchvision/squeezenet1_0"]
    assert squeezenet.rows_per_part(None, gpu=False) == 2048
    assert squeezenet.rows_per_part(None, gpu=True) == 16384
    assert squeezenet.rows_per_part(100, gpu=False) == 3200
    assert ALEXNET64.rows_per_part(None, gpu=False) == ALEXNET64.rows_per_part(100, gpu=True) == 1000


def test_what_bounds_a_worker():
    on_cpu = worker_speed(ALEXNET64, 400, 0.0004, Workers(1, 2))
    on_gpu = worker_speed(ALEXNET64, 100_000, 0.0004, Workers(1, 16, gpu=True))
    on_slow_gpu = worker_speed(ALEXNET64, 500, 0.0004, Workers(1, 16, gpu=True))
    on_many_cores = worker_speed(ALEXNET64, 100_000, 0.0004, Workers(1, 16))

    assert on_cpu.bound_by == on_slow_gpu.bound_by == "the trunk"
    assert on_many_cores.bound_by == on_cpu.feed_by == "decoding and cutting"
    assert on_many_cores.feed == pytest.approx(16 / 0.0014)  # every core decodes
    # A GPU rescales and cuts itself; the cores decode and write meanwhile.
    assert on_gpu.bound_by == on_gpu.feed_by == "decoding and writing"
    assert on_gpu.together == on_gpu.feed == pytest.approx(16 / 0.0009)
    assert on_slow_gpu.together == 500


def test_rates_grow_with_cores_and_are_never_made_up(monkeypatch):
    assert trunk_rate(ALEXNET64, Workers(3, 8), "auto") == ("cpu-bf16", 1600)
    both = ALEXNET64.model_copy(update={"rates": {"cpu-bf16": 400, "cpu-bf16-openvino": 800}})
    monkeypatch.setattr(plan_module, "find_spec", lambda name: object())
    assert trunk_rate(both, Workers(1, 2), "auto", "auto") == ("cpu-bf16-openvino", 800)
    assert trunk_rate(both, Workers(1, 2), "auto", "torch") == ("cpu-bf16", 400)
    assert trunk_rate(ALEXNET64, Workers(1, 2), "auto", "auto") == ("cpu-bf16", 400)
    with pytest.raises(SettingsError, match="cpu-bf16-openvino and cpu-fp32-openvino: not measured"):
        trunk_rate(ALEXNET64, Workers(), "auto", "openvino")
    monkeypatch.setattr(plan_module, "find_spec", lambda name: None)
    assert trunk_rate(both, Workers(1, 2), "auto", "auto") == ("cpu-bf16", 400)
    with pytest.raises(SettingsError, match=r"cpu-fp32: not measured; give --rate.*benchmarks/scale\.py"):
        trunk_rate(ALEXNET64, Workers(), "fp32")


# --- the shipped table


def test_the_shipped_table_says_of_every_entry_what_it_was_measured_on():
    costs = read_costs()

    entries = [*costs.stages.values(), *costs.trunks.values(), costs.picture]
    assert all("python benchmarks/scale.py" in entry.measured and "cores" in entry.measured for entry in entries)
    assert list(costs.trunks) == ["alexnet64", "alexnet", "torchvision/squeezenet1_0", "efficientnet_lite0"]
    for trunk in costs.trunks.values():
        assert trunk.part_rows is None
        assert trunk.rows_per_part(None, gpu=False) == rows_per_part(trunk.width, trunk.operations, 64)
        assert trunk.bytes_a_row < 2 * trunk.width + geometry_bytes_per_row()
    assert len(metadata_names()) + 1 + 2 == STORE_FILES


def test_the_shipped_table_counts_operations_as_an_extraction_does():
    runner = TrunkRunner(load_trunk("alexnet64"), torch.device("cpu"), "fp32")
    entry = read_costs().trunks["alexnet64"]
    assert entry.operations == runner.operations_per_row(runner.trunk)
    assert entry.rows_per_part(None, gpu=False) == rows_per_part(entry.width, entry.operations, runner.batch_rows)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [("[", "cannot be read"), ("stages: {}", "stages: Dict"), ("price: -1", "price: Input"), (None, "cannot be read")],
)
def test_a_bad_table_is_named(tmp_path, text, fragment):
    path = tmp_path / "costs.yaml"
    if text is not None:
        path.write_text(text)

    with pytest.raises(SettingsError, match=fragment) as caught:
        read_costs(path)
    assert str(path) in str(caught.value)


def test_planning_needs_no_torch():
    modules = "sys, pipeline.preflight.plan, pipeline.cli.plan"
    code = f"import {modules}; print([m for m in ('torch', 'zarr') if m in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- the benchmark, and the plan against what it measured


@pytest.fixture(scope="module")
def scaled(tmp_path_factory) -> tuple[Path, dict]:
    """A tiny run of the benchmark with its commands in this process: its folder and its figures."""
    scale, work = load_scale(), tmp_path_factory.mktemp("scale")

    def in_process(folder: Path, *arguments: str) -> tuple[float, float]:
        assert folder == work
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            # One thread: two that wait for each other crawl where other tests run at the same time.
            main([*arguments, "--threads", "1"])
        return 1.0, 100.0

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        patch.chdir(work)
        patch.setattr(scale, "run_command", in_process)
        patch.setattr(scale, "apart", lambda function, *arguments: function(*arguments))
        command = "scale.py --pictures 2 --sizes 1 2 --trunks alexnet64 --json scale.json --costs costs.yaml --work"
        patch.setattr(sys, "argv", [*command.split(), str(work)])
        scale.main()
    figures = json.loads((work / "scale.json").read_text())
    assert "fit-head" in out.getvalue() and "to 1x" in out.getvalue()
    return work, figures


def test_the_benchmark_counts_what_the_stages_leave(scaled):
    work, figures = scaled

    assert [(e["stage"], e["pictures"]) for e in figures["stages"]] == [
        (stage, n) for stage in ("patches", "extract", "fit-head", "score") for n in (2, 4)
    ]
    for entry in figures["stages"]:
        assert entry["rows"] > 300 * entry["pictures"]
        assert entry["bytes"] > 0
    assert figures["extract_seconds"]["planned"] > 0
    assert read_costs(work / "costs.yaml").trunks["alexnet64"].rates["cpu-fp32"] > 0


def test_files_and_bytes_of_the_plan_are_those_of_a_run(scaled):
    work, figures = scaled
    costs = read_costs(work / "costs.yaml")
    trunk = costs.trunk("alexnet64", "fc7")

    for entry in figures["stages"]:
        plan = make_plan([Counts(entry["pictures"], entry["rows"])], trunk, 1000, Workers(), costs)
        stage = plan.stages[entry["stage"]]
        # The memory of digests is made with the first file that is old enough to be remembered, by whichever stage.
        assert abs(stage.files - entry["files"]) <= 1, entry
        assert stage.bytes_expected == pytest.approx(entry["bytes"], rel=0.3), entry
        if entry["stage"] == "extract":
            assert stage.bytes_at_most > entry["bytes"]


def test_commands_of_the_benchmark_run_apart(tmp_path):
    scale = load_scale()

    seconds, peak_mib = scale.run_command(tmp_path, "--version")
    assert seconds > 0 and peak_mib > 1
    with pytest.raises(SystemExit, match="no manifest data_manifests/nothing.yaml"):
        scale.run_command(tmp_path, "extract", "--dataset", "nothing", "--split", "all")
    assert scale.apart(abs, -3) == 3


# --- the command


def run(*arguments: str) -> str:
    with redirect_stdout(StringIO()) as out:
        main(["--debug", "plan", *arguments])
    return out.getvalue()


def test_a_dataset_is_counted_alike_before_and_after_its_table_is_made(scaled, monkeypatch):
    work, figures = scaled
    monkeypatch.chdir(work)
    rows = next(e["rows"] for e in figures["stages"] if e["pictures"] == 4)

    before = run("--dataset", "x2", "--costs", "costs.yaml")
    after = run("--dataset", "x2", "--cache", "cache/x2", "--results", "results/x2", "--costs", "costs.yaml")

    assert f"x2 all (counted from sizes): 4 pictures, {rows:,} patches" in before
    assert f"x2 all (kept patch table): 4 pictures, {rows:,} patches" in after
    whole = work / "whole.yaml"
    whole.write_text(yaml.safe_dump({"source": "whole"}))
    assert "4 pictures, 4 patches" in run("--dataset", "x2", "--split", "all", "--config", "whole.yaml")


def test_rows_that_are_there_are_foreseen(scaled, monkeypatch, tmp_path):
    """A sealed store of the split; none, but one of half of its pictures elsewhere; and a machine of another kind."""
    work, figures = scaled
    monkeypatch.chdir(work)
    rows = {e["pictures"]: e["rows"] for e in figures["stages"]}
    common = ("--dataset", "x2", "--results", "results/x2", "--costs", "costs.yaml", "--threads", "1")

    sealed = run(*common, "--cache", "cache/x2")
    assert "there already: all rows\n" in sealed and "parts: 0 of" in sealed

    new = (*common[:-4], "--threads", "1", "--cache", str(tmp_path / "cache"))
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        main(["patches", *new[:2], "--split", "all", *new[2:]])
    new = (*new, "--costs", "costs.yaml")
    assert "there already" not in run(*new) and "note: " not in run(*new)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"adopt_from": [str(work / "cache/x1")]}))
    text = run(*new, "--config", str(config))
    taken = f"{rows[4] - rows[2]:,} rows of 2 pictures through the trunk; {rows[2]:,} rows taken over from x1-all-"
    assert taken in text
    foreseen = json.loads(run(*new, "--config", str(config), "--json"))
    (there,) = foreseen["there"].values()
    assert there["n_rows"] + sum(there["adopted"].values()) == rows[4]
    # What it says is what happens.
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as told:
        main(["extract", *new[:2], "--split", "all", *new[2:-2], "--config", str(config)])
    assert f"{rows[2]:,} rows are taken over from x1-all-" in told.getvalue()
    assert f"{rows[4] - rows[2]:,} rows to extract" in told.getvalue()

    gpus = run(*common, "--cache", str(tmp_path / "other"), "--config", str(config), "--gpus", "2", "--rate", "1000")
    assert "there already" not in gpus


def test_a_plan_for_gpus_says_that_it_counts_no_rows_of_a_cpu(scaled, monkeypatch, tmp_path):
    work, _ = scaled
    monkeypatch.chdir(work)
    receipts = work / "cache/x2/receipts"
    receipts.rename(tmp_path / "receipts")
    try:
        text = run("--dataset", "x2", "--cache", "cache/x2", "--costs", "costs.yaml", "--gpus", "2", "--rate", "1000")
    finally:
        (tmp_path / "receipts").rename(receipts)
    assert "note: x2 all: rows that are there already are not counted: the last bits of a row depend on" in text


def test_pictures_that_will_be_refused_are_named(scaled, monkeypatch, tmp_path):
    monkeypatch.chdir(scaled[0])
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"grid": {"max_patches": 500}}))
    with pytest.raises(PipelineError, match="2 of 2 pictures will be refused\n.*at most 500 are allowed"):
        run("--dataset", "x1", "--config", str(config))


def test_a_plan_is_printed_with_units(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = "--images 11540 --images 10991 --patches 509 --threads 2 --workers 4 --price 0.5"
    text = run(*options.split())

    assert "split 2: 10,991 pictures, 5.594 million patches" in text
    assert "alexnet64 fc7, 1,024 columns; 4 workers of 2 cores; arithmetic cpu-" in text
    assert "parts: 351 of 32,768 patches" in text
    for word in ("patches", "extract", "fit-head", "score", "all", "$", "GiB", "1,773", "bound by ", "costs: "):
        assert word in text


def test_json_has_the_numbers_and_the_loud_lines():
    options = "--images 1e9 --patches 50 --trunk alexnet --gpus 8 --rate 20000 --threads 16 --json"
    plan = json.loads(run(*options.split()))

    assert plan["splits"] == {"split 1": {"pictures": 10**9, "rows": 5 * 10**10}}
    assert plan["workers"] == {"n": 8, "cores": 16, "gpu": True}
    assert plan["speed"]["trunk"] == 20000 and plan["arithmetic"] == "as given"
    assert plan["stages"]["extract"]["bytes_at_most"] == 5 * 10**10 * (8192 + 21)
    assert plan["stages"]["extract"]["dollars"] is None
    assert "373 TiB are needed" in plan["warnings"][0]
    assert "more memory than the" in plan["warnings"][1]
    assert "WARNING: cache: up to " in run(*options.replace("--json", "").split())


@pytest.mark.parametrize(
    ("grid", "times", "pays"),
    [
        ("{scales: [1.0, 1.3, 1.6, 2.0, 2.4, 2.8]}", "4.7", True),
        ("{scales: [1.0]}", "1.4", False),
        ("{scales: [1.0, 1.3, 1.6, 2.0, 2.4, 2.8], overlap: 0}", "1.3", False),
    ],
)
def test_it_is_said_whether_dense_pays(tmp_path, grid, times, pays):
    config = tmp_path / "dense.yaml"
    config.write_text(f"method: dense\ngrid: {grid}\n")
    text = run("--images", "10", "--config", str(config))
    assert f"convolutions read {times} times fewer pixels" in text
    assert ("WARNING: method dense" in text) == ("It does not pay" in text) == (not pays)
    assert "method dense" not in run("--images", "10")


def test_fewer_pixels_by_a_loop():
    grid, windows, pixels = GridSettings(scales=(1.0, 1.6)), 0, 0
    for factor, sides in ((1.0, (299, 224)), (1.6, (478, 358))):
        for side in sides:
            assert abs(side - 224 * factor * (4 / 3 if side == sides[0] else 1)) <= 0.5
        # To whole cells beyond a patch.
        extended = [next(n for n in range(224, 999, 32) if n >= side) for side in sides]
        pixels += extended[0] * extended[1]
        windows += int((grid_windows(500, 375, GridSettings(scales=(factor,)))[1] == 0).sum())
    assert fewer_pixels((500, 375), grid) == windows * 224**2 / pixels


def test_patches_a_picture_follow_the_grid():
    assert "10 pictures, 4,880 patches" in run("--images", "10")


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ("", ["give either --dataset or --images"]),
        ("--dataset demo --images 5", ["give either --dataset or --images"]),
        ("--images 0 --patches -1", ["2 mistake(s)", "--images: expected a whole number above 0, got '0'", "'-1'"]),
        ("--images 1.5", ["--images: expected a whole number above 0, got '1.5'"]),
        ("--images nan --rate inf --price x", ["3 mistake(s)", "'nan'", "'inf'", "--price: expected a number above 0"]),
        ("--images 5 --images 5 --images 5", ["--images: once, or for two splits, got 3"]),
        ("--images 5 --workers 2 --gpus 2", ["--workers and --gpus exclude each other"]),
        ("--images 5 --workers 0", ["--workers: expected a whole number above 0"]),
        ("--images 5 --split val", ["--split goes with --dataset"]),
        ("--dataset demo --patches 5", ["--patches goes with --images"]),
        ("--dataset nothing", ["no manifest data_manifests/nothing.yaml"]),
        ("--images 5 --trunk nothing", ["must be one of alexnet64"]),
        ("--images 5 --trunk krizhevsky", ["not in the table of costs, which has random, alexnet64, alexnet"]),
        ("--images 5 --layer fc6", ["layer 'fc6' is not in the table of costs; it has fc7"]),
        ("--images 5 --gpus 2", ["cuda-fp16: not measured; give --rate", "python benchmarks/scale.py --costs"]),
        ("--images 5 --device cuda", ["cuda-fp16: not measured"]),
        ("--images 5 --costs nothing.yaml", ["nothing.yaml: cannot be read as a table of costs"]),
        ("--images 5 --threads -1", ["threads: Input should be greater than or equal to 0"]),
    ],
)
def test_mistakes_are_named(options, fragments):
    with pytest.raises(PipelineError) as caught:
        run(*options.split())
    for fragment in fragments:
        assert fragment in str(caught.value)
