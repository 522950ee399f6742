"""What checkpoints of other families hold is read as well: NumPy arrays and numbers."""

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from finetune.core.errors import FoundationError
from finetune.potentials.archive import Record, interpret, read_archive

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"]


def archived(value: object) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return read_archive(buffer).root


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_are_read_as_numpy_reads_them(dtype: str) -> None:
    arrays = [
        np.arange(6).astype(dtype).reshape(2, 3),
        np.arange(400).astype(dtype),
        np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)),
        np.zeros((0, 3), dtype),
        np.array(1, dtype),
    ]
    found = archived({"config": arrays, "again": arrays[0]})
    for array, expected in zip(found["config"], arrays, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    assert found["again"] is found["config"][0]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_numbers_and_arrays_are_read_in_every_protocol(protocol: int) -> None:
    values = {"shift": np.float64(0.1), "count": np.int32(7), "row": np.array([1.0, -2.5])}
    found: Any = interpret(pickle.dumps(values, protocol))
    assert type(found["shift"]) is float and found["shift"] == 0.1
    assert type(found["count"]) is int and found["count"] == 7
    np.testing.assert_array_equal(found["row"], values["row"])


def test_numpy_of_earlier_releases_is_read() -> None:
    pickled = pickle.dumps([np.ones(3), np.float32(0.5)], 2)
    names = [b"numpy.core.multiarray", b"numpy._core.multiarray"]
    for old, new in (names, reversed(names)):
        found: Any = interpret(pickled.replace(old, new))
        np.testing.assert_array_equal(found[0], np.ones(3))
        assert found[1] == 0.5


@pytest.mark.parametrize(
    "array", [np.array(["H", "C"]), np.array([{}], object), np.zeros(2, ">f8"), np.zeros(2, "c16")]
)
def test_other_arrays_are_named(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(FoundationError, match="holds NumPy values of the type '(U1|O8|f8|c16)'"):
        archived([array])


def forged(**changes: object) -> bytes:
    class Forged:
        def __reduce__(self) -> Any:
            function, args, state = np.arange(4.0).__reduce__()
            keys = ("version", "shape", "dtype", "fortran", "raw")
            return function, args, tuple((dict(zip(keys, state, strict=True)) | changes).values())

    return pickle.dumps(Forged(), 2)


FORGED = {
    "a huge shape": {"shape": (2**60,)},
    "a shape that overflows": {"shape": (2**32, 2**32)},
    "a negative shape": {"shape": (-4,)},
    "too many dimensions": {"shape": (1,) * 60 + (4,)},
    "no shape": {"shape": None},
    "other bytes": {"raw": b"123"},
    "a list of objects": {"raw": [1, 2, 3, 4]},
    "no type": {"dtype": "O"},
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_arrays_are_refused(what: str) -> None:
    with pytest.raises(FoundationError, match=r"damaged pickle near byte \d+ \(BUILD\)"):
        interpret(forged(**FORGED[what]))


def test_the_same_text_becomes_bytes_once() -> None:
    text = b"X" + (1_000_000).to_bytes(4, "little") + b"a" * 1_000_000
    call = b"c_codecs\nencode\n" + text + b"q\x00X\x06\x00\x00\x00latin1\x86R"
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    found: Any = interpret(b"\x80\x02](" + call + 1000 * again + b"e.")
    assert len(found) == 1001
    assert all(item is found[0] for item in found)


def test_a_long_name_is_refused() -> None:
    text = b"X" + (1_000_000).to_bytes(4, "little") + b"a" * 1_000_000
    with pytest.raises(FoundationError, match="damaged pickle near byte"):
        interpret(b"\x80\x04](" + text + b"q\x00h\x00\x93" + 1000 * b"h\x00h\x00\x93" + b"e.")


DOUBLED = b")" + b"2\x86" * 5_000
DTYPE = b"cnumpy\ndtype\n" + DOUBLED + b"\x85R(K\x03X\x01\x00\x00\x00<tb"
ENDLESS = {
    "a name": b"\x80\x04" + DOUBLED + b"2\x93.",
    "a type": b"\x80\x03cnumpy.core.multiarray\nscalar\n" + DTYPE + b"C\x08" + bytes(8) + b"\x86R.",
    "an encoding": b"\x80\x02c_codecs\nencode\n" + DOUBLED + b"2\x86R.",
    "a storage": b"\x80\x02" + DOUBLED + b"Q.",
}


@pytest.mark.parametrize("what", ENDLESS)
def test_tuples_that_double_are_never_walked(what: str) -> None:
    with pytest.raises(FoundationError, match="damaged pickle near byte"):
        interpret(ENDLESS[what])


def test_other_calls_are_kept_as_records() -> None:
    found: Any = interpret(pickle.dumps({1, 2}, 2))
    assert isinstance(found, Record)
    assert (found.path, found.args) == ("builtins.set", ([1, 2],))
