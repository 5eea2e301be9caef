"""Both sides of the handshake, message by message, without sockets."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.raft.frames import PROTOCOL_VERSION, Hello, Keepalive, encode_frame
from falconq_cluster.raft.handshake import (
    AcceptorHandshake,
    Channel,
    DiallerHandshake,
    Handshake,
    HandshakeError,
    Identity,
    encode_refusal,
)
from tests.unit.raft.transport_rig import Willing, make_hello


def identity(
    name: str,
    *,
    secret: bytes = b"secret",
    hello: Hello | None = None,
    judge: Callable[[Hello], str | None] = lambda _: None,
) -> Identity:
    members = {"a", "b", "c"} - {name}
    return Identity(name, secret, members, lambda: hello or make_hello(name), judge)


def dialler(name: str = "a", peer: str = "b", *, channel: Channel = "main", who: Identity | None = None) -> Handshake:
    return DiallerHandshake(who or identity(name), Willing(), peer=peer, channel=channel)


def acceptor(name: str = "b", *, who: Identity | None = None, answer: str | None = None) -> Handshake:
    return AcceptorHandshake(who or identity(name), lambda _peer, _channel: answer)


def opened(side: Handshake) -> bytes:
    message = side.open()
    assert message is not None
    return message


def answered(side: Handshake, message: bytes) -> bytes:
    answer = side.receive(message)
    assert answer is not None
    return answer


def talk(one: Handshake, other: Handshake) -> None:
    """Carries messages to and fro until nobody has anything to say."""
    message: bytes | None = opened(one)
    while message is not None:
        message = other.receive(message)
        one, other = other, one


def refused(one: Handshake, other: Handshake) -> str:
    with pytest.raises(HandshakeError) as raised:
        talk(one, other)
    return raised.value.reason


def test_both_sides_know_each_other_and_the_channel_at_the_end():
    one, other = dialler(channel="bulk"), acceptor()
    talk(one, other)
    assert one.is_done
    assert other.is_done
    assert (one.peer, other.peer) == ("b", "a")
    assert (one.hello, other.hello) == (make_hello("b"), make_hello("a"))
    assert other.channel == "bulk"


def test_the_acceptor_is_not_done_before_the_dialler_says_that_it_takes_the_connection():
    one, other = dialler(), acceptor()
    welcome = answered(other, answered(one, answered(other, opened(one))))
    assert not other.is_done
    ready = answered(one, welcome)
    assert one.is_done
    assert other.receive(ready) is None
    assert other.is_done


def test_the_acceptor_proves_nothing_to_who_has_not_proven_itself():
    one, other = dialler(), acceptor()
    challenge = msgspec.msgpack.decode(answered(other, opened(one)))
    # The kind and a nonce: no hello, nothing made of the secret.
    assert challenge[0] == 2
    assert [len(part) for part in challenge[1:]] == [32]


@pytest.mark.parametrize("swapped", [False, True])
def test_secrets_that_differ_are_refused_also_when_one_is_empty(swapped: bool):
    secrets = [b"", b"secret"]
    if swapped:
        secrets.reverse()
    one, other = dialler(who=identity("a", secret=secrets[0])), acceptor(who=identity("b", secret=secrets[1]))
    assert refused(one, other) == "the shared secret differs"


def test_the_judge_of_either_side_can_refuse_with_its_reason():
    stern = "cluster c2 is not ours"
    assert refused(dialler(), acceptor(who=identity("b", judge=lambda _: stern))) == stern
    assert refused(dialler(who=identity("a", judge=lambda _: stern)), acceptor()) == stern
    assert refused(dialler(), acceptor(answer="another one goes on")) == "another one goes on"


def test_a_hello_under_another_name_than_the_greeting_is_refused():
    liar = identity("a", hello=make_hello("c"))
    assert refused(dialler(who=liar), acceptor()) == "the hello of 'a' says 'c'"
    liar = identity("b", hello=make_hello("c"))
    assert refused(dialler(), acceptor(who=liar)) == "the hello of 'b' says 'c'"


def test_a_proof_does_not_serve_for_another_connection():
    one, other = dialler(), acceptor()
    proof = answered(one, answered(other, opened(one)))
    second = acceptor()
    second.receive(opened(dialler()))
    with pytest.raises(HandshakeError, match="the shared secret differs"):
        second.receive(proof)


def test_a_recorded_conversation_does_not_serve_again():
    one, other = dialler(), acceptor()
    greeting = opened(one)
    proof = answered(one, answered(other, greeting))
    again = acceptor()
    again.receive(greeting)
    with pytest.raises(HandshakeError, match="the shared secret differs"):
        again.receive(proof)


def test_a_proof_that_is_reflected_is_not_the_other_sides():
    one, other = dialler(), acceptor()
    proof = msgspec.msgpack.decode(answered(one, answered(other, opened(one))))
    with pytest.raises(HandshakeError, match="the shared secret differs"):
        one.receive(msgspec.msgpack.encode([4, encode_frame(make_hello("b")), proof[2]]))


def test_whoever_changes_any_message_on_the_way_is_found_out():
    for kind, change in (
        (1, lambda parts: [*parts[:3], "bulk", *parts[4:]]),  # the channel
        (1, lambda parts: [*parts[:6], bytes(32)]),  # the dialler's nonce
        (2, lambda parts: [parts[0], bytes(32)]),  # the acceptor's nonce
        (3, lambda parts: [parts[0], encode_frame(make_hello("a", cluster_id="c2")), parts[2]]),
        (4, lambda parts: [parts[0], encode_frame(make_hello("b", cluster_id="c2")), parts[2]]),
        (3, lambda parts: [*parts[:2], bytes(32)]),
        (4, lambda parts: [*parts[:2], parts[2][:-1]]),
    ):
        one, other = dialler(), acceptor()
        message = opened(one)
        speaker, listener = one, other
        with pytest.raises(HandshakeError, match="the shared secret differs"):  # noqa: PT012  # either side may be first
            while True:
                parts = msgspec.msgpack.decode(message)
                if parts[0] == kind:
                    message = msgspec.msgpack.encode(change(parts))  # type: ignore[no-untyped-call]
                message = answered(listener, message)
                speaker, listener = listener, speaker


def test_messages_out_of_turn_are_refused():
    one, other = dialler(), acceptor()
    greeting = opened(one)
    challenge = answered(other, greeting)
    with pytest.raises(HandshakeError, match="Greeting came out of turn"):
        other.receive(greeting)
    with pytest.raises(HandshakeError, match="Welcome came out of turn"):
        one.receive(msgspec.msgpack.encode([4, b"", b""]))
    one.receive(challenge)
    with pytest.raises(HandshakeError, match="Challenge came out of turn"):
        one.receive(challenge)
    with pytest.raises(HandshakeError, match="Ready came out of turn"):
        acceptor().receive(msgspec.msgpack.encode([5]))


def test_a_refusal_of_the_peer_is_told_from_an_own_one_and_is_bounded():
    for side in (dialler(), acceptor()):
        with pytest.raises(HandshakeError) as raised:
            side.receive(msgspec.msgpack.encode([6, "no" * 10_000]))
        assert raised.value.is_from_peer
        assert len(raised.value.reason) <= 300
    assert len(encode_refusal("no" * 10_000)) < 320


def test_another_version_is_refused_before_anything_else_is_looked_at():
    greeting = msgspec.msgpack.encode([1, "falconq-peer", PROTOCOL_VERSION + 1, "main", "x", "y", bytes(32), "more"])
    with pytest.raises(HandshakeError, match=f"protocol version {PROTOCOL_VERSION + 1} is not ours"):
        acceptor().receive(greeting)


def test_a_hello_that_is_another_frame_or_none_is_refused():
    for data in (encode_frame(Keepalive(1, 2, 3)), b"\xc1", b""):
        one, other = dialler(), acceptor()
        answered(other, opened(one))
        # Signed with the right secret over the right transcript: only the hello is wrong.
        challenge_transcript = other._transcript  # type: ignore[attr-defined]
        branch = challenge_transcript._mac.copy()
        branch.update(len(data).to_bytes(4, "big") + data + b"dialler")
        with pytest.raises(HandshakeError, match="the hello is"):
            other.receive(msgspec.msgpack.encode([3, data, branch.digest()]))


@given(st.binary(max_size=200) | st.lists(st.none() | st.integers() | st.binary(max_size=40) | st.text(max_size=20)))
def test_any_bytes_at_any_stage_raise_nothing_but_a_handshake_error(noise: bytes | list[object]):
    data = noise if isinstance(noise, bytes) else msgspec.msgpack.encode([v for v in noise if not _is_huge(v)])
    one, other = dialler(), acceptor()
    greeting = opened(one)
    fresh = acceptor()
    challenge = answered(other, greeting)
    for side in (fresh, other, one):
        with pytest.raises(HandshakeError):
            side.receive(data)
    one.receive(challenge)
    with pytest.raises(HandshakeError):
        one.receive(data)


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**64
