"""What is judged quickly, or turn by turn, is judged as if it were read plainly."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway import nesting, splitting
from falconq_cluster.gateway.fields import read_publish, repeated_name
from falconq_cluster.gateway.nesting import check_large, depth_exceeds
from falconq_cluster.gateway.splitting import split_array, split_lines

TEXTS = st.text(alphabet='a[]{},:"\\ä\n', max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
SPACES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")])
NAMES = st.sampled_from(["a", "b", "ab", '"', "\\", "ä"])


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(part) for part in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(part) for part in value), default=0)
    return 0


def spelled(value: Any, spaces: tuple[str, str], *, is_ascii: bool = False) -> bytes:
    return json.dumps(value, separators=spaces, ensure_ascii=is_ascii).encode()


@given(value=VALUES, wraps=st.integers(0, 9), depth_max=st.integers(0, 12), spaces=SPACES)
def test_a_depth_is_what_counting_brackets_outside_of_strings_tells(
    value: Any, wraps: int, depth_max: int, spaces: tuple[str, str]
):
    for _ in range(wraps):
        value = [value, []]
    assert depth_exceeds(spelled(value, spaces), depth_max) == (depth_of(value) > depth_max)


@given(value=VALUES, wraps=st.integers(0, 9), depth_max=st.integers(1, 12), spaces=SPACES, size=st.integers(1, 9))
def test_a_depth_is_the_same_in_slices_of_any_size(
    value: Any, wraps: int, depth_max: int, spaces: tuple[str, str], size: int
):
    for _ in range(wraps):
        value = {"x": [], "y\\": value}
    data = spelled(value, spaces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nesting, "SLICE_BYTES", size)
        if depth_of(value) > depth_max and len(data) > size:
            with pytest.raises(FalconQError, match="nested deeper"):
                asyncio.run(check_large(data, depth_max))
        else:
            left = asyncio.run(check_large(data, depth_max))
            assert not depth_exceeds(data, max(left, depth_of(value)))


@given(pairs=st.lists(st.tuples(NAMES, VALUES), max_size=5), spaces=SPACES, is_ascii=st.booleans())
def test_a_name_is_repeated_exactly_when_reading_all_pairs_tells_so(
    pairs: list[tuple[str, Any]], spaces: tuple[str, str], is_ascii: bool
):
    members = [spelled(n, spaces, is_ascii=is_ascii) + spaces[1].encode() + spelled(v, spaces) for n, v in pairs]
    data = b" {" + spaces[0].encode().join(members) + b"\n}"
    values = {name: bytes(raw) for name, raw in msgspec.json.decode(data, type=dict[str, msgspec.Raw]).items()}
    names = [name for name, _ in pairs]
    found = repeated_name(data, values)
    assert (found is not None) == (len(names) != len(set(names)))
    assert found is None or names.count(found) > 1


@given(
    pairs=st.lists(
        st.tuples(st.just("message"), VALUES)
        | st.tuples(st.just("headers"), st.dictionaries(NAMES, TEXTS, max_size=3))
        | st.tuples(st.just("producer"), st.just({"id": "p", "sequence": 1}))
        | st.tuples(st.just("priority"), TEXTS | st.integers(0, 3))
        | st.tuples(st.just("partitionID"), st.integers(0, 30)),
        max_size=4,
    ),
    spaces=SPACES,
    is_large=st.booleans(),
)
def test_a_body_with_a_field_twice_is_refused_whatever_its_size(
    pairs: list[tuple[str, Any]], spaces: tuple[str, str], is_large: bool
):
    pairs = [*pairs, ("message", ["x" * 5_000, {"message": 1, "priority": 2}] if is_large else 0)]
    members = [spelled(n, spaces) + spaces[1].encode() + spelled(v, spaces) for n, v in pairs]
    data = b"{" + spaces[0].encode().join(members) + b"}"
    names = [name for name, _ in pairs]
    if len(names) == len(set(names)):
        assert json.loads(bytes(read_publish(data, depth_max=64).message)) == pairs[-1][1]
    else:
        with pytest.raises(FalconQError, match="more than once"):
            read_publish(data, depth_max=64)


@given(pairs=st.lists(st.tuples(NAMES, TEXTS), max_size=5), is_ascii=st.booleans(), spaces=SPACES)
def test_headers_with_a_name_twice_are_refused(pairs: list[tuple[str, str]], is_ascii: bool, spaces: tuple[str, str]):
    members = [spelled(n, spaces) + spaces[1].encode() + spelled(v, spaces, is_ascii=is_ascii) for n, v in pairs]
    data = b'{"message":1,"headers":{' + spaces[0].encode().join(members) + b"}}"
    if len(pairs) == len(dict(pairs)):
        assert read_publish(data, depth_max=64)
    else:
        with pytest.raises(FalconQError, match="a name more than once"):
            read_publish(data, depth_max=64)


@given(
    values=st.lists(VALUES | st.fixed_dictionaries({"message": VALUES}), max_size=12),
    spaces=SPACES,
    size=st.integers(1, 40),
)
def test_an_array_is_split_into_its_elements_whatever_the_size_of_a_piece(
    values: list[Any], spaces: tuple[str, str], size: int
):
    data = b" " + spelled(values, spaces) + b"\n"
    whole = [bytes(part) for part in msgspec.json.decode(data, type=list[msgspec.Raw])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "PIECE_BYTES", size)
        assert asyncio.run(split_array(data, 100)) == whole
        assert asyncio.run(split_array(data, 3)) == whole[:4]


@given(
    values=st.lists(VALUES, max_size=8),
    spaces=SPACES,
    size=st.integers(1, 20),
    place=st.integers(0, 200),
    put=st.sampled_from([b"", b",", b"]", b"[", b"}", b'"', b"x", b"1"]),
    taken=st.integers(0, 2),
)
def test_what_is_no_array_is_refused_whatever_the_size_of_a_piece(
    values: list[Any], spaces: tuple[str, str], size: int, place: int, put: bytes, taken: int
):
    data = spelled(values, spaces)
    place %= len(data) + 1
    data = data[:place] + put + data[place + taken :]
    try:
        whole = [bytes(part) for part in msgspec.json.decode(data, type=list[msgspec.Raw])]
    except msgspec.MsgspecError:
        whole = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "PIECE_BYTES", size)
        if whole is None:
            with pytest.raises(FalconQError, match="not a JSON array of messages"):
                asyncio.run(split_array(data, 1_000))
        else:
            assert asyncio.run(split_array(data, 1_000)) == whole


@given(lines=st.lists(st.binary(max_size=5)), size=st.integers(1, 10))
def test_lines_are_split_whatever_the_size_of_a_piece(lines: list[bytes], size: int):
    data = b"\n".join(lines)
    whole = [line for line in data.split(b"\n") if line.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "PIECE_BYTES", size)
        assert asyncio.run(split_lines(data, 1_000)) == whole
        assert asyncio.run(split_lines(data, 3)) == whole[:4]


@pytest.mark.parametrize("end", [b",]", b",", b"", b"x]", b',{"message":}]'])
async def test_where_a_large_array_breaks_is_told_by_its_place_in_the_body(end: bytes):
    unit = b'{"message":"' + b"x" * 1_000 + b'"}'
    data = b"[" + b",".join([unit] * 1_000) + end
    with pytest.raises(msgspec.DecodeError) as plain:
        msgspec.json.decode(data, type=list[msgspec.Raw])
    with pytest.raises(FalconQError) as told:
        await split_array(data, 2_000)
    assert str(plain.value).removeprefix("JSON is malformed: ") in told.value.message


async def test_no_body_keeps_other_tasks_from_having_their_turn():
    large = b'{"message":"' + b"[" * (1 << 20) + b'"}'
    batch = b"[" + b",".join([large] * 4) + b"]"
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count_turns())
    await check_large(large, 64)
    assert turns >= len(large) // nesting.SLICE_BYTES
    turns = 0
    assert await split_array(batch, 10) == [large] * 4
    assert turns >= 3
    other.cancel()
