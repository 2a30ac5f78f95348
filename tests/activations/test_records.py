"""Records and seals: typed values whose bytes on disk are a function of what they state."""

from __future__ import annotations

import random

import pytest

from pipeline.activations.arrays import metadata_names
from pipeline.activations.identity import Identity
from pipeline.activations.partition import Part, parts_of
from pipeline.activations.records import (
    ForeignRecordError,
    PartRecord,
    Seal,
    check_record,
    describe_bytes,
    make_record,
    make_seal,
)
from pipeline.io.checksummed import checksummed_json
from pipeline.io.digests import sha256_bytes

STORE = "f" * 64
IDENTITY = Identity(
    {"seen.n_rows": 10, "seen.skipped": ["c: truncated"], "how.part_rows": 4, "how.dtype": "float16", "how.width": 3}
)


def objects_of(part: Part) -> dict[str, bytes]:
    return {name: name.encode() for name in part.object_names}


def record_of(part: Part, codec: str = "small") -> PartRecord:
    return make_record(part, STORE, objects_of(part), codec)


METADATA = {name: b"{}" + name.encode() for name in metadata_names()}
RECORDS = {part.record_name: record_of(part).to_bytes() for part in parts_of(IDENTITY)}


# --- records


def test_a_record_states_all_objects_of_its_part():
    part = Part(2, 8, 10)
    assert record_of(part, "fast").to_dict() == {
        "fingerprint": STORE,
        "part": 2,
        "rows": [8, 10],
        "codec": "fast",
        "objects": {name: {"bytes": len(name), "sha256": sha256_bytes(name.encode())} for name in part.object_names},
    }
    assert "codec" not in record_of(part, "zstd").to_dict()
    assert record_of(part).n_bytes == sum(map(len, part.object_names))


@pytest.mark.parametrize("codec", ["small", "fast", "zstd"])
def test_a_record_comes_back_as_it_was(codec):
    record = record_of(Part(1, 4, 8), codec)
    assert PartRecord.from_dict(record.to_dict()) == record
    assert PartRecord.from_bytes(record.to_bytes()) == record
    assert PartRecord.from_bytes(record.to_bytes()).to_bytes() == record.to_bytes()
    assert check_record(record.to_bytes(), Part(1, 4, 8), STORE, codec) == record


@pytest.mark.parametrize(
    ("part", "fingerprint", "codec", "of"),
    [
        (Part(0, 4, 8), STORE, "small", "part or store"),
        (Part(1, 4, 9), STORE, "small", "part or store"),
        (Part(1, 4, 8, ("activations",)), STORE, "small", "part or store"),
        (Part(1, 4, 8), "0" * 64, "small", "part or store"),
        (Part(1, 4, 8), STORE, "fast", "codec"),
    ],
)
def test_a_sound_record_from_elsewhere_is_a_foreign_one(part, fingerprint, codec, of):
    with pytest.raises(ForeignRecordError) as error:
        check_record(record_of(Part(1, 4, 8)).to_bytes(), part, fingerprint, codec)
    assert error.value.of == of


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"fingerprint": STORE, "part": 1, "rows": 3, "objects": {}},
        {"fingerprint": STORE, "part": 1, "rows": [4, 8], "objects": []},
        {"fingerprint": STORE, "part": 1, "rows": [4, 8], "objects": {"a": {"bytes": 1}}},
        {"fingerprint": STORE, "part": 1, "rows": [4, 8], "objects": {"a": 1}},
    ],
)
def test_what_is_no_record_is_damage_and_not_foreign(value):
    with pytest.raises(ValueError, match="is no record of a part") as error:
        check_record(checksummed_json(value), Part(1, 4, 8), STORE)
    assert not isinstance(error.value, ForeignRecordError)


# --- the seal


def test_a_seal_comes_back_as_it_was():
    seal = make_seal(IDENTITY, RECORDS, METADATA)
    assert Seal.from_dict(seal.to_dict()) == seal
    assert Seal.from_bytes(seal.to_bytes()) == seal
    assert Seal.from_bytes(seal.to_bytes()).to_bytes() == seal.to_bytes()
    assert seal.files == {name: describe_bytes(data) for name, data in {**METADATA, **RECORDS}.items()}


@pytest.mark.parametrize("change", [{"rows": None}, {"more": 1}, {"records": []}, {"skipped": "c"}])
def test_what_is_no_seal_is_refused(change):
    value = {**make_seal(IDENTITY, RECORDS, METADATA).to_dict(), **change}
    value = {key: content for key, content in value.items() if content is not None}
    with pytest.raises(ValueError, match="is no seal|states no files"):
        Seal.from_bytes(checksummed_json(value))


def test_the_seal_does_not_depend_on_the_order_of_its_files():
    seal = make_seal(IDENTITY, RECORDS, METADATA).to_bytes()
    for seed in range(5):
        records, metadata = (
            dict(random.Random(seed).sample(list(content.items()), len(content))) for content in (RECORDS, METADATA)
        )
        assert make_seal(IDENTITY, records, metadata).to_bytes() == seal


def test_the_seal_follows_every_byte_of_records_and_metadata():
    seal = make_seal(IDENTITY, RECORDS, METADATA)
    assert (seal.rows, seal.parts, seal.skipped) == (10, 3, ("c: truncated",))
    given = {"records": RECORDS, "metadata": METADATA}
    for kind, content in given.items():
        assert getattr(seal, kind) == {name: describe_bytes(data) for name, data in content.items()}
        for name, data in content.items():
            assert make_seal(IDENTITY, **{**given, kind: {**content, name: data + b" "}}) != seal
