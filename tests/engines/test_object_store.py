"""Stores on S3, by a server that speaks it: the same bytes, the same order, the same refusals as on a disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import traceback
import urllib.request
from pathlib import Path

import boto3
import numpy as np
import pytest
import yaml
import zarr
from support.s3 import SECRET
from support.store_tests import StoreTests

from pipeline.activations.arrays import metadata_names
from pipeline.activations.folder import RemoteFolder, open_folder
from pipeline.activations.store import Store
from pipeline.io.errors import PipelineError, SettingsError, StoreError
from pipeline.stages.parse_settings import parse_run_settings

CHECKOUT = Path(__file__).resolve().parents[2]
EXTRACT = "extract --dataset tiny --split train --stores"


@pytest.fixture(scope="module")
def job(bucket, base, job_lines, small_parts, tmp_path_factory):
    """The whole job with its stores on S3: the work folder, and all that it printed."""
    path = tmp_path_factory.mktemp("job") / "work"
    shutil.copytree(base.path, path)
    work, printed = type(base)(path), []
    for line in job_lines:
        ended = work.run(f"--debug {line} --stores s3://bucket/job")
        printed.append(ended.err + ended.out)
        assert ended.code == 0, ended.err
    return work, printed


# --- the same as on a disk


def test_stores_are_byte_for_byte_those_on_disk(bucket, job, on_disk):
    for split in ("train", "val"):
        assert bucket.store("job", split) == on_disk.store(split=split).name
        assert bucket.bytes("job", split) == on_disk.bytes(split=split)
    work, _ = job
    assert not list(work.path.glob("**/*.zarr"))


def test_heads_scores_and_results_are_those_of_the_store_on_disk(job, on_disk):
    results = [json.loads((where.path / "results/tiny_map.json").read_text()) for where in (job[0], on_disk)]
    assert results[0]["paths"]["store"].startswith("s3://bucket/job/tiny-val-")
    for key in ("mAP", "AP", "fingerprints", "pictures"):
        assert results[0][key] == results[1][key]
    assert {"extract_train", "extract_val"} <= results[0]["seconds"].keys()


def test_zarr_alone_reads_it(bucket, job, on_disk):
    there = zarr.open_group(
        f"s3://bucket/job/{bucket.store('job')}", mode="r", storage_options={"endpoint_url": bucket.endpoint}
    )
    kept = zarr.open_group(on_disk.store(), mode="r")
    for name in ("activations", "picture", "box_xyxy", "scale"):
        assert np.array_equal(there[name][:], kept[name][:])
    assert dict(there.attrs) == dict(kept.attrs)


def test_order_of_writes(bucket, job):
    name = bucket.store("job")
    expected = list(reversed(metadata_names()))
    assert expected[-1] == "zarr.json"
    for i in range(7):
        expected += [f"activations/c/{i}/0", f"picture/c/{i}", f"box_xyxy/c/{i}/0", f"scale/c/{i}"]
        expected += [f"integrity/part-{i:05d}.json"]
    assert bucket.requests.puts(f"bucket/job/{name}") == [*expected, "integrity/seal.json"]


def test_the_trunk_runs_once(bucket, job):
    before = len(bucket.requests.lines)
    ended = job[0].run(f"{EXTRACT} s3://bucket/job")
    assert ended.code == 0 and "complete, the trunk does not run" in ended.err
    assert not [line for line in bucket.requests.lines[before:] if not line.startswith(("GET", "HEAD"))]


# --- several processes, and one that dies


@pytest.mark.long
def test_killed_and_gone_on_gives_the_same_bytes(bucket, work, on_disk, flags, flagged):
    (flags / "die-at-once").write_text("picture/c/3")
    process = work.start(f"{EXTRACT} s3://bucket/killed", **flagged)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    with pytest.raises(StoreError, match=r"not complete: 4 of 7 parts are missing \(first: 3\)"):
        Store(f"s3://bucket/killed/{bucket.store('killed')}")
    before = len(bucket.requests.lines)

    ended = work.run(f"{EXTRACT} s3://bucket/killed")

    assert ended.code == 0, ended.err
    assert "resuming, 3 of 7 parts are recorded" in ended.err
    assert bucket.bytes("killed") == on_disk.bytes()
    written = [line for line in bucket.requests.lines[before:] if line.startswith("PUT")]
    assert len(written) == 4 * 5 + 1
    assert not [line for line in written if re.search(r"part-0000[012]|/c/[012](/0)?$|zarr\.json", line)]


@pytest.mark.long
def test_two_at_once(bucket, work, on_disk, tmp_path, flags, flagged):
    (flags / "hold").touch()
    other = type(work)(shutil.copytree(work.path, tmp_path / "other"))
    processes = [each.start(f"{EXTRACT} s3://bucket/both", **flagged) for each in (work, other)]
    try:
        for process in processes:
            while "rows to extract" not in (line := process.stderr.readline()):
                assert line, "ended early"
        (flags / "hold").unlink()
        for process in processes:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert all(line.startswith(("s3://bucket/both/", "extract tiny train: ")) for line in err.splitlines()), err
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert bucket.bytes("both") == on_disk.bytes()


@pytest.mark.long
def test_workers_of_dask_write_the_same_bytes(bucket, work, on_disk):
    ended = work.run(f"{EXTRACT} s3://bucket/dask --scheduler local:2")
    assert ended.code == 0, ended.err
    assert bucket.bytes("dask") == on_disk.bytes()


class TestOnS3(StoreTests):
    @pytest.fixture
    def place(self, bucket, tmp_path) -> str:
        return f"s3://bucket/{tmp_path.name}/small.zarr"


# --- damage


def test_damage_is_refused_found_and_mended(bucket, job, on_disk):
    work, _ = job
    name = bucket.store("job")
    flipped = bytearray(bucket.get(f"job/{name}/activations/c/2/0"))
    flipped[len(flipped) // 2] ^= 1
    torn = bucket.get(f"job/{name}/activations/c/4/0")[:-100]
    bucket.client.delete_object(Bucket="bucket", Key=f"job/{name}/picture/c/0")
    bucket.client.put_object(Bucket="bucket", Key=f"job/{name}/activations/c/2/0", Body=bytes(flipped))
    bucket.client.put_object(Bucket="bucket", Key=f"job/{name}/activations/c/4/0", Body=torn)
    bucket.client.put_object(Bucket="bucket", Key=f"job/{name}/notes.txt", Body=b"mine")

    store = Store(f"s3://bucket/job/{name}")
    with pytest.raises(StoreError, match=r"picture/c/0 is missing; list .* pipeline cache verify"):
        store.read_geometry("picture")
    for part in (2, 4):
        with pytest.raises(StoreError, match=rf"activations/c/{part}/0 changed since it was written; list"):
            store.read_part(store.parts[part])

    verified = work.run("cache verify --stores s3://bucket/job")
    assert verified.code == 2
    assert f"s3://bucket/job/{name}: damaged, 7 parts" in verified.out
    for line in (
        "picture/c/0: missing",
        "activations/c/2/0: flipped (of the written length, with other content)",
        "activations/c/4/0: torn (",
        "notes.txt: unexpected",
    ):
        assert f"  - {line}" in verified.out
    assert "1 of 2 stores are damaged: 1 flipped, 1 missing, 1 torn, 1 unexpected" in verified.err

    mended = work.run("cache repair --stores s3://bucket/job")
    assert mended.code == 0, mended.err
    assert "parts 0, 2, 4 made again; sealed" in mended.out
    assert "removed notes.txt, which was no file of it" in mended.out
    assert bucket.bytes("job") == on_disk.bytes()
    again = work.run("cache verify --stores s3://bucket/job")
    assert again.code == 0, again.err


def test_listing_and_freeing(bucket, job, monkeypatch):
    work, _ = job
    kept = {name.partition("/")[0] for name in bucket.sizes("job")}
    assert work.run(f"{EXTRACT} s3://bucket/job --batch 8").code == 0
    listed = json.loads(work.run("cache ls --json --stores s3://bucket/job").out)
    assert [row["state"] for row in listed] == ["sealed"] * 3
    assert {Path(row["store"]).name for row in listed if row["heads"] or row["results"]} == kept
    (unused,) = (row for row in listed if Path(row["store"]).name not in kept)

    shown = work.run("cache gc --older-than 0 --stores s3://bucket/job")
    assert f"{unused['store']}: " in shown.out and shown.out.count("s3://") == 1
    assert work.run("cache gc --stores s3://bucket/job").out.startswith("nothing to free")  # it is too young
    assert work.run("cache gc --older-than 0 --yes --stores s3://bucket/job").code == 0
    assert {name.partition("/")[0] for name in bucket.sizes("job")} == kept


# --- places that do not work


def test_no_such_bucket(bucket, work):
    for line in (f"{EXTRACT} s3://nobucket/x", "cache ls --stores s3://nobucket/x"):
        ended = work.run(line)
        assert ended.code == 2
        message = ended.err.splitlines()[-1]
        assert re.match(r"error: s3://nobucket/\S+: there is no such bucket; make it first, or choose", message)
        assert "Traceback" not in ended.err
    # Nothing takes it for a place in which there merely is no such file.
    folder = open_folder("s3://nobucket/x")
    for ask in (
        folder.sizes,
        folder.folders,
        folder.changed,
        lambda: folder.read("a"),
        lambda: folder.read_many(["a"]),
        lambda: folder.write("a", b""),
        lambda: folder.create("a", b""),
    ):
        with pytest.raises(PipelineError, match="there is no such bucket"):
            ask()


def test_no_rights(bucket, job, work, new_connections, monkeypatch):
    iam = boto3.client("iam", endpoint_url=bucket.endpoint)
    iam.create_user(UserName="guest")
    key = iam.create_access_key(UserName="guest")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])

    def ask_for_rights(after):
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{bucket.endpoint}/moto-api/reset-auth", after.encode(), plain)
        urllib.request.urlopen(request).close()

    ask_for_rights("0")
    try:
        ended = [
            work.run(f"{EXTRACT} s3://bucket/other"),
            job[0].run("cache verify --stores s3://bucket/job"),
            job[0].run("fit-head --dataset tiny --head fca --stores s3://bucket/job"),
        ]
    finally:
        ask_for_rights("inf")
    for each in ended:
        assert each.code == 2
        message = each.err.splitlines()[-1]
        assert re.match(r"error: s3://bucket/\S+: no rights: .*; files there must be read, written, listed", message)
        assert "Traceback" not in each.err and key["SecretAccessKey"] not in each.err
    assert bucket.sizes("other") == {}


def test_nobody_there(bucket, job, work, new_connections, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for ended in (
        work.run(f"{EXTRACT} s3://bucket/other"),
        job[0].run("cache verify --stores s3://bucket/job"),
        job[0].run("score --dataset tiny --head fca --stores s3://bucket/job"),
    ):
        assert ended.code == 2
        message = ended.err.splitlines()[-1]
        assert re.match(r"error: s3://bucket/\S+: cannot be used: .*127\.0\.0\.1:1.*; check the network", message)
        assert "Traceback" not in ended.err


def test_no_credentials(bucket, work, new_connections, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    ended = work.run(f"{EXTRACT} s3://bucket/other")
    assert ended.code == 2
    assert "cannot be used: Unable to locate credentials; check the network, and the environment" in ended.err


# --- secrets


def test_secret_is_nowhere(bucket, job):
    work, printed = job
    assert files_with(work.path, "s3://bucket/job") != []  # receipts and results are among what is looked at
    assert files_with(work.path, SECRET[5:15]) == []
    assert not [name for name in bucket.sizes("job") if SECRET[5:15].encode() in bucket.get(f"job/{name}")]
    assert not any(SECRET[5:15] in text for text in printed)


def files_with(folder, text):
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.parametrize("url", [f"s3://AKIA:{SECRET}@bucket/x", f"s3://bucket/x?secret={SECRET}"])
def test_secret_in_a_url_is_refused_and_not_repeated(work, url):
    (work.path / "config.yaml").write_text(yaml.safe_dump({"stores": url}))
    for ended in (work.run(f"{EXTRACT} {url}"), work.run("cache ls")):
        assert ended.code == 2
        assert "credentials and options do not belong into a URL" in ended.err
        assert SECRET[5:15] not in ended.err + ended.out
    with pytest.raises(SettingsError) as caught:
        parse_run_settings({"stores": url})
    # With --debug, the whole chain of errors is printed.
    assert SECRET[5:15] not in "".join(traceback.format_exception(caught.value))


# --- the workflow


@pytest.mark.long
def test_workflow_reaches_its_result(bucket, work, on_disk, warm):
    for name in ("Snakefile", "stages", "profiles", "envs"):
        (work.path / name).symlink_to(CHECKOUT / name)
    command = [warm / "snakemake", "--cores", "2", "results/tiny_map.json", "--configfile", "config.yaml"]
    finished = subprocess.run(
        [*command, "--config", "stores=s3://bucket/flow"],
        cwd=work.path,
        env={**os.environ, "PATH": f"{warm}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=250,
        start_new_session=True,
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads((work.path / "results/tiny_map.json").read_text())
    expected = json.loads((on_disk.path / "results/tiny_map.json").read_text())
    assert result["mAP"] == pytest.approx(expected["mAP"], abs=1e-6)
    assert len({name.partition("/")[0] for name in bucket.sizes("flow")}) == 2
    assert SECRET[5:15] not in finished.stdout + finished.stderr
    assert files_with(work.path, SECRET[5:15]) == []


def test_listings_are_not_kept():
    folder = RemoteFolder("memory://listing/store")
    folder.write("a", b"1")
    assert folder.sizes() == {"a": 1}
    RemoteFolder("memory://listing/store").write("b/c", b"22")
    assert folder.sizes() == {"a": 1, "b/c": 2}
    assert folder.folders() == ["b"]
    folder.remove("a")
    folder.remove("a")
    assert folder.read_many(["a", "b/c"]) == {"b/c": b"22"}
    with pytest.raises(FileNotFoundError):
        folder.read("a")
    folder.remove_all()
    assert folder.sizes() == {}
