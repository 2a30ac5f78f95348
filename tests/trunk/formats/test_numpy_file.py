"""Pickled dicts of arrays are read without unpickling anything else."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest
from alexnet_files import python2_npy
from hypothesis import given
from hypothesis import strategies as st

from pipeline.io.errors import TrunkError
from pipeline.trunk.formats.numpy_file import read_numpy

LAYERS = {
    "conv1": [np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1), np.array([1.5, -2], np.float32)],
    "fc6": [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(2, dtype=">f8")],
}


def npy(body: bytes) -> bytes:
    """A ``.npy`` of one object, with these bytes as its pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def pickled(value: object, protocol: int) -> bytes:
    holder = np.empty((), object)
    holder[()] = value
    return npy(pickle.dumps(holder, protocol))


def check(found):
    assert set(found) == {"conv1.0", "conv1.1", "fc6.0", "fc6.1"}
    for name, (weight, bias) in LAYERS.items():
        assert np.array_equal(found[f"{name}.0"], weight) and np.array_equal(found[f"{name}.1"], bias)
        assert found[f"{name}.0"].dtype == np.float32


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_dicts_of_lists_of_arrays(tmp_path, protocol):
    (tmp_path / "a.npy").write_bytes(pickled(LAYERS, protocol))
    check(read_numpy(tmp_path / "a.npy").tensors)
    (tmp_path / "b.npy").write_bytes(
        pickled(LAYERS, protocol).replace(b"numpy._core", b"numpy.core") if protocol == 2 else pickled(LAYERS, protocol)
    )
    check(read_numpy(tmp_path / "b.npy").tensors)


def test_what_numpy_itself_saves(tmp_path):
    np.save(tmp_path / "a.npy", LAYERS, allow_pickle=True)
    check(read_numpy(tmp_path / "a.npy").tensors)
    nested = {name: {"weights": pair[0], "biases": pair[1]} for name, pair in LAYERS.items()}
    np.save(tmp_path / "a.npy", nested, allow_pickle=True)
    assert set(read_numpy(tmp_path / "a.npy").tensors) == {f"{n}.{p}" for n in LAYERS for p in ("weights", "biases")}


def test_what_python_2_saved(tmp_path):
    layers = {name: [np.ascontiguousarray(v, np.float32) for v in pair] for name, pair in LAYERS.items()}
    (tmp_path / "a.npy").write_bytes(python2_npy(layers))
    check(read_numpy(tmp_path / "a.npy").tensors)
    # The same bytes as a reader without limits understands them.
    whole = np.load(tmp_path / "a.npy", allow_pickle=True, encoding="bytes").item()
    assert np.array_equal(whole[b"conv1"][0], LAYERS["conv1"][0])


class Runs:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def hostile(marker):
    """Pickles that would leave a file behind if they were unpickled."""
    command = f"touch {marker}"
    return {
        "os.system": Runs(os.system, command),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w').close()"),
        "mkdir": Runs(os.mkdir, str(marker)),
        "in an array": {"conv1": [np.zeros(2, np.float32), Runs(os.system, command)]},
        "in an object array": np.array([Runs(os.system, command), 1], object),
        "attribute": Runs(getattr, 1, "real"),
    }


@pytest.mark.parametrize("name", list(hostile("x")))
@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_pickles_are_refused_and_not_run(tmp_path, name, protocol):
    marker = tmp_path / "ran"
    (tmp_path / "a.npy").write_bytes(pickled(hostile(marker)[name], protocol))
    with pytest.raises(TrunkError, match="a pickle that is not loaded: it asks for .*, and a pickle may run any code"):
        read_numpy(tmp_path / "a.npy")
    assert not marker.exists()
    if name in ("os.system", "eval", "mkdir"):
        np.load(tmp_path / "a.npy", allow_pickle=True)  # they would have
        assert marker.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
DTYPE = b"cnumpy\ndtype\n(U\x02%sK\x00K\x01tR(K\x03U\x01%sNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        # Bytes of an array of objects are addresses: numpy's own unpickling is told so only by a flag.
        (ARRAY + b"(K\x01(K\x01t" + DTYPE % (b"O8", b"|") + b"\x89U\x08AAAAAAAAtb.", "NoneType, expected arrays"),
        (ARRAY + b"(K\x01(K\x09t" + DTYPE % (b"f4", b"<") + b"\x89U\x08AAAAAAAAtb.", r"shape \(9,\) has 8 bytes"),
        (ARRAY + b"(K\x01(J\xff\xff\xff\xfft" + DTYPE % (b"f4", b"<") + b"\x89U\x00tb.", "without type or shape"),
        (ARRAY + b"(K\x01(K\x01t" + DTYPE % (b"S9", b"|") + b"\x89U\x09AAAAAAAAAtb.", "an array of type 'S9'"),
        (ARRAY + b"(K\x01(K\x01t" + DTYPE % (b"f4", b"x") + b"\x89U\x04AAAAtb.", "byte order 'x'"),
        (ARRAY + b"K\x01b.", "an array of another version"),
        (b"ccopyreg\n_reconstructor\n.", "asks for copyreg._reconstructor"),
        (b"cnumpy.core.multiarray\nscalar\n.", "asks for numpy.core.multiarray.scalar"),
        (b"c_codecs\nencode\n(U\x01aU\x04zlibtR.", "text in another encoding"),
        (b"U\x03abc.", "a bytes, expected arrays in dicts and lists"),
        (b"]2aq\x00h\x00h\x00a.", "cannot be read|expected arrays"),
        (b"", "cannot be read"),
    ],
)
def test_pickles_that_lie(tmp_path, body, message):
    (tmp_path / "a.npy").write_bytes(npy(b"\x80\x02" + body))
    with pytest.raises(TrunkError, match=message):
        read_numpy(tmp_path / "a.npy")


def test_a_list_that_holds_itself(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(b"\x80\x02]q\x00h\x00a."))
    with pytest.raises(TrunkError, match="cannot be read"):
        read_numpy(tmp_path / "a.npy")


@given(st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, data):
    damaged = bytearray(pickled(LAYERS, data.draw(st.sampled_from([2, 4]))))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))])
    try:
        found = read_numpy(path).tensors
    except TrunkError:
        return
    assert all(value.dtype == np.float32 for value in found.values())


def test_one_plain_array_is_no_network(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(TrunkError, match="one array of type float64; expected a dict"):
        read_numpy(tmp_path / "a.npy")


def test_npz_with_a_pickle_inside(tmp_path):
    np.savez(tmp_path / "a.npz", conv1=np.array([Runs(os.system, "true")], object))
    with pytest.raises(TrunkError, match="cannot be read as a dict of arrays"):
        read_numpy(tmp_path / "a.npz")
