"""The frames' bytes are a protocol: they are held here, and anything else is refused."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.raft import frames
from falconq_cluster.raft.frames import (
    Append,
    AppendReply,
    Diverged,
    Expected,
    Forward,
    Frame,
    FrameError,
    FreshIndex,
    FreshIndexQuery,
    HashQuery,
    HashReply,
    Hello,
    Keepalive,
    KeepaliveReply,
    PreVote,
    PreVoteReply,
    Propose,
    ReadIndex,
    ReadIndexQuery,
    RequestVote,
    SnapshotChunk,
    SnapshotFailed,
    SnapshotFetch,
    SnapshotInstalled,
    SnapshotOffer,
    StaleTerm,
    Status,
    TimeoutNow,
    TransferWanted,
    Vote,
    decode_frame,
    encode_frame,
)

KINDS: tuple[type[Frame], ...] = typing.get_args(frames.AnyFrame)

GOLDEN: list[tuple[Frame, str]] = [
    (
        Hello(
            "n1",
            "c1",
            "d1",
            forming=False,
            restore_id="r1",
            members={"n1": "d1", "n2": ""},
            record_index=7,
            wall_ms=1_700_000_000_000,
        ),
        "9b01a26e31a26331a26431c2a2723182a26e31a26431a26e32a007cf0000018bcfe5680001a0",
    ),
    (Append(3, 1, 41, 2, 40, [(b"\x01one", 42, 3), (b"", 43, 3)]), "970203012902289293c404016f6e652a0393c4002b03"),
    (
        AppendReply(3, 1, 44, reset=False, success=True, applied_index=40, applied_hash=b"hash"),
        "980303012cc2c328c40468617368",
    ),
    (RequestVote(4, 43, 3, is_transfer=True), "9504042b03c3"),
    (Vote(4), "920504"),
    (PreVote(4, 43, 3, 9), "9506042b0309"),
    (PreVoteReply(4, 9, granted=True), "94070409c3"),
    (Keepalive(4, 300, 1_700_000_000_000), "940804cd012ccf0000018bcfe56800"),
    (KeepaliveReply(4, 300), "930904cd012c"),
    (StaleTerm(5), "920a05"),
    (TimeoutNow(5), "920b05"),
    (
        Status("c1", forming=True, restore_id="", members={"n1": ""}, record_index=0, wall_ms=70_000, heard_all=True),
        "980ca26331c3a081a26e31a000ce00011170c3",
    ),
    (Forward(12, 5, b"command"), "940d0c05c407636f6d6d616e64"),
    (Expected(4, 12, 6), "940e040c06"),
    (Propose(b"command"), "920fc407636f6d6d616e64"),
    (FreshIndexQuery(1), "921001"),
    (FreshIndex(1, 4, 43), "941101042b"),
    (SnapshotOffer(4, 40), "93120428"),
    (SnapshotFetch(2**40, 0), "9313cf000001000000000000"),
    (
        SnapshotChunk(2**40, 1, 40, 3, [(b"key", b"value")], is_last=False, digest=b"digest"),
        "9814cf00000100000000000128039192c4036b6579c40576616c7565c2c406646967657374",
    ),
    (SnapshotFailed(2**40, "gone"), "9315cf0000010000000000a4676f6e65"),
    (SnapshotInstalled(4, 40), "93160428"),
    (HashQuery(40), "921728"),
    (HashReply(40, b"hash"), "931828c40468617368"),
    (Diverged(40), "921928"),
    (ReadIndexQuery(7), "921a07"),
    (ReadIndex(7, 9), "931b0709"),
    (TransferWanted("n2"), "921ca26e32"),
]
"""A frame of each kind and its bytes. A line never changes while `PROTOCOL_VERSION` is 1: fields are only added."""


def test_every_kind_of_frame_has_golden_bytes_and_a_tag_of_its_own():
    assert [type(frame) for frame, _ in GOLDEN] == list(KINDS)
    assert [bytes.fromhex(golden)[1] for _, golden in GOLDEN] == list(range(1, len(KINDS) + 1))


@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=[type(frame).__name__ for frame, _ in GOLDEN])
def test_frames_have_the_bytes_that_they_always_had(frame: Frame, golden: str):
    assert encode_frame(frame).hex() == golden
    assert decode_frame(bytes.fromhex(golden)) == frame
    assert decode_frame(memoryview(bytes.fromhex(golden))) == frame


@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=[type(frame).__name__ for frame, _ in GOLDEN])
def test_a_frame_of_a_newer_node_with_more_fields_is_understood(frame: Frame, golden: str):
    fields = msgspec.msgpack.decode(bytes.fromhex(golden))
    assert decode_frame(msgspec.msgpack.encode([*fields, "a field of the future"])) == frame


def test_a_hello_of_an_older_node_without_the_added_fields_is_understood():
    golden = msgspec.msgpack.decode(bytes.fromhex(GOLDEN[0][1]))
    assert decode_frame(msgspec.msgpack.encode(golden[:9])) == GOLDEN[0][0]


def test_what_is_decoded_does_not_share_memory_with_the_buffer():
    buffer = bytearray(encode_frame(Propose(b"command")))
    with memoryview(buffer) as view:
        frame = decode_frame(view)
    buffer[:] = bytes(len(buffer))
    assert frame == Propose(b"command")


@given(st.one_of(*(st.from_type(kind) for kind in KINDS)))
def test_every_frame_survives_the_way_there(frame: Frame):
    try:
        data = encode_frame(frame)
    except (OverflowError, UnicodeEncodeError):
        # Integers beyond 64 bits and lone surrogates: no node has them to send.
        return
    assert decode_frame(data) == frame


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_only_a_frame_error(data: bytes):
    decode_or_refuse(data)


@given(st.sampled_from(GOLDEN), st.data())
def test_a_damaged_frame_is_another_frame_or_a_frame_error(golden: tuple[Frame, str], draw: st.DataObject):
    data = bytearray.fromhex(golden[1])
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    decode_or_refuse(bytes(data[: draw.draw(st.integers(0, len(data)))]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff\x02",
        msgspec.msgpack.encode([99]),
        msgspec.msgpack.encode([5, -1, "rest"])[:-2],
        msgspec.msgpack.encode([5, "4"]),
        msgspec.msgpack.encode([5, None]),
        msgspec.msgpack.encode({"kind": 5, "term": 4}),
        encode_frame(Vote(4)) + b"\x00",
        b"\x92\x05\xcf" + b"\xff" * 7,
        b"\x93\xcc\x15\x01\xa2\xff\xfe",
    ],
)
def test_what_is_no_frame_is_refused_with_a_reason(data: bytes):
    with pytest.raises(FrameError, match="not a frame of protocol version 1: "):
        decode_frame(data)


def decode_or_refuse(data: bytes) -> None:
    try:
        frame = decode_frame(data)
    except FrameError:
        return
    assert isinstance(frame, KINDS)
