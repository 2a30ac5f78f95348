"""Pictures on S3, whole and in tar archives: the rows are those of a folder, whoever reads them."""

from __future__ import annotations

import io
import shutil
import tarfile

import pytest
import yaml
from support.cli import run_command
from support.dataset import CONFIG, draw_scene
from support.s3 import SECRET

SHARD = "s3://bucket/set/shard-{000..001}.tar"


class Place:
    """A work folder with settings and nothing else: it shares no disk with any other one."""

    def __init__(self, path):
        self.path = path
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "batch": 16}))

    def run(self, line):
        return run_command(self.path, *line.split(), "--config", "config.yaml")

    def extract(self, root, more=""):
        ended = self.run(f"extract --root {root} {more}")
        assert ended.code == 0, ended.err
        return ended

    def bytes(self):
        """Every file of the one store."""
        (store,) = (self.path / "cache").glob("*.zarr")
        return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def photos(bucket, tmp_path_factory):
    """Three pictures in a folder and on S3: below a prefix, and in two archives."""
    folder = tmp_path_factory.mktemp("pictures") / "photos"
    (folder / "b").mkdir(parents=True)
    for k, name in enumerate(("a0", "a1", "b/c")):
        draw_scene(folder / f"{name}.png", [["ball"], ["crate"]][k % 2], 90 + 20 * k)
        bucket.client.upload_file(str(folder / f"{name}.png"), "bucket", f"photos/{name}.png")
    for number, names in enumerate((("a0", "a1"), ("b/c",))):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name in names:
                tar.add(folder / f"{name}.png", f"{name}.png")
                tar.addfile(tarfile.TarInfo(f"{name}.cls"))
        bucket.client.put_object(Bucket="bucket", Key=f"set/shard-{number:03d}.tar", Body=stream.getvalue())
    return folder


@pytest.fixture(scope="module")
def of_archives(photos, tmp_path_factory):
    """The rows of the archives, made by one process."""
    place = Place(tmp_path_factory.mktemp("archives") / "one")
    return place, place.extract(SHARD)


def test_pictures_on_s3_have_the_rows_of_the_folder_and_no_secret_is_written(photos, tmp_path):
    near, far = Place(tmp_path / "near"), Place(tmp_path / "far")
    near.extract(photos, "--source whole")
    ended = far.run("--debug extract --root s3://bucket/photos --source whole")
    assert ended.code == 0, ended.err
    assert far.bytes() == near.bytes()
    written = [p.read_bytes() for p in far.path.rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in data for data in [*written, (ended.out + ended.err).encode()])


@pytest.mark.long
def test_workers_of_dask_read_archives_by_themselves(of_archives, tmp_path):
    spread = Place(tmp_path / "spread")
    spread.extract(SHARD, "--scheduler local:2")
    assert spread.bytes() == of_archives[0].bytes()


def test_shares_in_folders_of_their_own_fill_one_store(bucket, of_archives, tmp_path):
    for share in ("1/2", "2/2"):
        Place(tmp_path / share[0]).extract(SHARD, f"--share {share} --stores s3://bucket/shares")
    before = len(bucket.requests.lines)
    Place(tmp_path / "seals").extract(SHARD, "--stores s3://bucket/shares")
    written = [line.rpartition("/")[2] for line in bucket.requests.lines[before:] if line.startswith("PUT")]
    assert written == ["seal.json"]
    names = bucket.sizes("shares")
    made = {name.partition("/")[2]: bucket.get(f"shares/{name}") for name in names}
    assert made == of_archives[0].bytes()


def test_a_second_run_reads_no_picture(bucket, of_archives, tmp_path):
    place, _ = of_archives
    before = len(bucket.requests.lines)
    ended = place.extract(SHARD)
    assert "the trunk does not run" in ended.err
    assert not [line for line in bucket.requests.lines[before:] if line.startswith("GET bucket/set/shard")]


def test_changed_and_missing_objects_are_noticed(bucket, photos, tmp_path):
    place = Place(tmp_path / "place")
    for name in ("a0", "a1"):
        bucket.client.upload_file(str(photos / f"{name}.png"), "bucket", f"own/{name}.png")
    place.extract("s3://bucket/own", "--source whole")
    draw_scene(tmp_path / "new.png", ["ball", "crate"], 40)
    bucket.client.upload_file(str(tmp_path / "new.png"), "bucket", "own/a1.png")
    ended = place.extract("s3://bucket/own", "--source whole")
    for said in ("pictures changed: a1", "1 rows are taken over", "1 rows to extract"):
        assert said in ended.err, ended.err

    (tmp_path / "list.txt").write_text("s3://bucket/own/a0.png\ns3://bucket/own/gone.png\n")
    refused = place.run(f"extract --root {tmp_path}/list.txt")
    assert refused.code == 2 and "own__gone: s3://bucket/own/gone.png: no such file or object" in refused.err, (
        refused.err
    )


def test_no_bucket_and_no_archive(photos, tmp_path):
    place = Place(tmp_path / "place")
    ended = place.run("extract --root s3://nobucket/photos")
    assert ended.code == 2 and "nobucket" in ended.err and not list(place.path.glob("data_manifests/*.yaml"))
    ended = place.run("extract --root s3://bucket/set/shard-{000..002}.tar")
    assert ended.code == 2 and "1 of 3 archives are not there:\n  - s3://bucket/set/shard-002.tar" in ended.err
    shutil.rmtree(place.path)
