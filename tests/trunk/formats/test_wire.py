"""The reader of protobuf's wire format, beside the protobuf library."""

from __future__ import annotations

import numpy as np
import pytest
from alexnet_files import CHAIN, caffe, write_caffemodel
from hypothesis import given
from hypothesis import strategies as st

from pipeline.io.errors import TrunkError
from pipeline.trunk.formats.caffemodel import read_caffemodel
from pipeline.trunk.formats.wire import Message

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)


@given(st.text(max_size=20), st.lists(INT64, max_size=9), st.lists(FLOAT32, max_size=9), st.lists(st.text(max_size=5)))
def test_reads_what_the_library_writes(name, dims, values, bottoms):
    layer = caffe().LayerParameter(name=name, bottom=bottoms)
    blob = layer.blobs.add()
    blob.shape.dim.extend(dims)
    blob.data.extend(values)
    blob.double_data.extend(values)
    message = Message(layer.SerializeToString())
    assert (message.text(1), message.texts(3)) == (name, bottoms)
    (read,) = message.messages(7)
    assert read.messages(7)[-1].integers(1) == dims if dims else True
    assert np.array_equal(read.reals(5), np.array(values, np.float32))
    assert np.array_equal(read.reals(8, "<f8"), np.array(values, np.float64))


@given(st.lists(FLOAT32, max_size=9), st.integers(0, 2**32 - 1))
def test_numbers_that_are_not_packed(values, group):
    layer = caffe().V1LayerParameter(blobs_lr=values)
    layer.convolution_param.group = group
    message = Message(layer.SerializeToString())
    assert np.array_equal(message.reals(7), np.array(values, np.float32))
    assert message.messages(10)[-1].integer(5) == group


def test_absent_fields_have_their_default():
    message = Message(b"")
    assert (message.text(1), message.integer(2, 7), message.real(3, 0.5), message.messages(4)) == ("", 7, 0.5, [])
    assert 1 not in message and message.reals(5).shape == (0,)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_an_error(data):
    try:
        message = Message(data)
        for number in range(1, 10):
            for read in (message.messages, message.reals, message.integers, message.texts):
                try:
                    read(number)
                except ValueError:
                    continue
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x05abc", "field 1 ends past the end"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "field 1 ends past the end"),
        (b"\x08" + b"\xff" * 11, "a number of more than 64 bits"),
        (b"\x08\x80", "a number ends past the end"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x02\x00", "the number 0"),
    ],
)
def test_damage_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        Message(data)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A caffemodel whose layers hold a handful of numbers each."""
    path = tmp_path_factory.mktemp("small") / "a.caffemodel"
    names = [f"{kind}{i}" for kind, numbers in (("conv", range(1, 6)), ("fc", range(6, 9))) for i in numbers]
    shapes = {"weight": (2, 2, 1, 1), "bias": (2,)}
    weights = {f"{n}.{part}": np.zeros(shape, np.float32) for n in names for part, shape in shapes.items()}
    write_caffemodel(path, weights, CHAIN["caffenet"], 2)
    return path.read_bytes()


@given(st.data())
def test_damaged_models_are_read_or_refused(small_model, tmp_path_factory, data):
    damaged = bytearray(small_model)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.caffemodel"
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))])
    try:
        source = read_caffemodel(path)
    except TrunkError:
        return
    assert all(value.dtype.kind == "f" for value in source.tensors.values())
