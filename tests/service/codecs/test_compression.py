"""Packed bodies: read back whole, within a limit, and malformed ones refused with their reason."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.errors import InvalidInput
from service.codecs.compression import ENCODINGS, Decompressor, accepted_encoding, compress


def pack(encoding: str, data: bytes) -> bytes:
    return gzip.compress(data) if encoding == "gzip" else zlib.compress(data)


@given(st.sampled_from(ENCODINGS), st.binary(max_size=300), st.integers(1, 50))
def test_a_body_is_read_back_in_pieces_of_any_size(encoding: str, data: bytes, piece: int) -> None:
    packed = pack(encoding, data)
    unpacker = Decompressor(encoding, len(data))
    found = b"".join(unpacker.feed(packed[at : at + piece]) for at in range(0, len(packed), piece))
    unpacker.finish()
    assert found == data


@given(st.sampled_from(ENCODINGS), st.binary(max_size=300))
def test_what_is_packed_is_the_standard_form(encoding: str, data: bytes) -> None:
    packed = compress(data, encoding)
    assert (gzip.decompress(packed) if encoding == "gzip" else zlib.decompress(packed)) == data


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_more_than_the_limit_is_refused_before_it_is_unpacked(encoding: str) -> None:
    bomb = pack(encoding, bytes(100_000_000))
    unpacker = Decompressor(encoding, 1000)
    with pytest.raises(InvalidInput, match=r"more than the 1000 bytes.*--http-max-input-size"):
        unpacker.feed(bomb)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(encoding: str) -> None:
    assert len(Decompressor(encoding, 5000).feed(pack(encoding, bytes(5000)))) == 5000
    with pytest.raises(InvalidInput, match="more than"):
        Decompressor(encoding, 4999).feed(pack(encoding, bytes(5000)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_malformed_bodies_are_refused(encoding: str) -> None:
    whole = pack(encoding, b"some text that is long enough")
    with pytest.raises(InvalidInput, match=f"is not {encoding}"):
        Decompressor(encoding, 1000).feed(b"some text")
    with pytest.raises(InvalidInput, match="something follows the end"):
        Decompressor(encoding, 1000).feed(whole + b"more")
    cut = Decompressor(encoding, 1000)
    cut.feed(whole[:-2])
    with pytest.raises(InvalidInput, match="ends before its end"):
        cut.finish()


@given(st.sampled_from(ENCODINGS), st.binary(max_size=60))
def test_any_bytes_are_unpacked_or_refused(encoding: str, data: bytes) -> None:
    unpacker = Decompressor(encoding, 100)
    try:
        unpacker.feed(data)
        unpacker.finish()
    except InvalidInput:
        return


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "identity"),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "deflate"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip ; q=0.5 ,deflate; q=0.4", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0.5, identity", "identity"),
        ("gzip;q=0.5, identity;q=0.1", "gzip"),
        ("br, zstd", "identity"),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip"),
        ("gzip;q=high, deflate;q=0.1", "deflate"),
        ("gzip;q=nan, deflate;q=inf", "identity"),
        ("gzip;level=9", "identity"),
        (",,;q=1,", "identity"),
    ],
)
def test_the_encoding_that_weighs_most_is_chosen(header: str, expected: str) -> None:
    assert accepted_encoding(header) == expected
