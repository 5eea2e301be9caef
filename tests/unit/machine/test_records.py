from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconq_cluster.machine.commands import CommandError, decode_command, decode_entry, encode_command, encode_entry
from falconq_cluster.machine.records import (
    BatchHeader,
    Record,
    RecordError,
    batch_records,
    iter_records,
    pack_batch,
    pack_record,
    read_batch_header,
)
from tests.unit.machine.test_golden import EVERYTHING

records = st.lists(
    st.builds(Record, st.binary(max_size=50), st.none() | st.text(max_size=9), st.none() | st.binary(max_size=9)),
    max_size=8,
)


def pack(items: list[Record]) -> bytes:
    return b"".join(pack_record(item.message, item.key, item.headers) for item in items)


@given(records)
def test_packed_records_are_read_back(items: list[Record]):
    assert list(iter_records(pack(items))) == items


@given(records, st.integers(0, 9))
def test_batch_is_read_from_any_record_on(items: list[Record], skip: int):
    value = pack_batch(BatchHeader(len(items), 7, 3, 1000, 9), pack(items))
    header = read_batch_header(value)
    assert (header.count, header.log_index, header.first_id, header.timestamp_ms) == (len(items), 7, 3, 1000)
    assert header.before_count == 9
    assert list(batch_records(value, skip=skip)) == items[skip:]


@given(records, st.integers(1, 30))
def test_cut_records_are_refused_or_end_at_a_whole_record(items: list[Record], cut: int):
    data = pack(items)
    try:
        found = list(iter_records(data[:-cut]))
    except RecordError:
        return
    assert found == items[: len(found)]


@given(st.binary(max_size=200), st.integers(0, 3))
def test_no_bytes_break_the_record_reader(data: bytes, skip: int):
    try:
        assert sum(len(item.message) + 10 for item in iter_records(data)) <= len(data)
        read_batch_header(data)
        list(batch_records(data, skip=skip))
    except RecordError as error:
        assert str(error)  # noqa: PT017


def test_key_that_is_too_long_is_refused():
    pack_record(b"m", "k" * 0xFFFE)
    with pytest.raises(RecordError, match="65535 bytes is longer than 65534"):
        pack_record(b"m", "k" * 0xFFFF)


def test_key_that_is_not_utf8_is_refused():
    data = pack_record(b"m", "k")[:-1] + b"\xff"
    with pytest.raises(RecordError, match="not UTF-8"):
        list(iter_records(data))


def test_batch_of_another_version_is_refused():
    with pytest.raises(RecordError, match="starts with 02"):
        read_batch_header(b"\x02" + bytes(24))
    with pytest.raises(RecordError, match="starts with nothing"):
        read_batch_header(b"")


@given(st.binary(max_size=200))
def test_no_bytes_break_the_command_reader(data: bytes):
    for read in (decode_command, decode_entry):
        try:
            read(data)
        except CommandError as error:
            assert str(error)  # noqa: PT017


@settings(deadline=None)
@given(st.data())
def test_no_damage_of_a_command_breaks_its_reader(data: st.DataObject):
    damaged = bytearray(encode_command(EVERYTHING))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_command(bytes(damaged))
    except CommandError as error:
        assert str(error)  # noqa: PT017


def test_deeply_nested_operations_are_refused():
    head = encode_command(EVERYTHING)[:21]
    with pytest.raises(CommandError):
        decode_command(head + b"\x91" * 200_000 + b"\x90")


@given(st.binary(max_size=50), st.integers(0, 2**64 - 1))
def test_entry_gives_back_its_stamp_and_command(command: bytes, stamp_ms: int):
    assert decode_entry(encode_entry(command, stamp_ms)) == (stamp_ms, command)
