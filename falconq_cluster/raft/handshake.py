"""Two members prove to each other that they share the secret, before any frame is exchanged.

What lives here: the messages and both sides of the handshake as pure state machines: bytes in, bytes out.

    dialler                                   acceptor
       | -- Greeting(who, to whom, nonce) --->   |  members only, right version, really meant for this node
       | <-- Challenge(nonce) ----------------   |
       | -- Proof(hello, mac) --------------->   |  the dialler has the secret; is its hello acceptable?
       | <-- Welcome(hello, mac) -------------   |  so has the acceptor, and it agrees to this connection
       | -- Ready() ------------------------->   |  the dialler still wants it: now, and only now, both use it

Rules: each MAC is HMAC-SHA256 over the role and every message so far, so it covers both nonces, both hellos, both
names, the version and the channel: it cannot be replayed, reflected, or used for another connection. The acceptor
proves nothing to those who have not proven themselves. MACs are compared in constant time. Frames after `Ready` are
neither encrypted nor signed: the network between the members is trusted not to be written to by others.
Must not know: sockets, timers, which connection wins when there are two (it asks).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from falconq_cluster.raft.frames import PROTOCOL_VERSION, FrameError, Hello, decode_frame, encode_frame

Channel = Literal["main", "bulk"]

HANDSHAKE_BYTES_MAX = 64 * 1024
"""As much as a stranger may make a node hold; a hello of a hundred members is below 10 KiB."""

_MAGIC = "falconq-peer"
_NONCE_BYTES = 32
_REASON_CHARS_MAX = 300


class HandshakeError(Exception):
    """The connection must not be used; says why."""

    def __init__(self, reason: str, *, is_from_peer: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_from_peer = is_from_peer
        """The other side refused, and needs no refusal in return."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag_field="kind"):
    pass


class _Greeting(_Message, frozen=True, tag=1):
    magic: str
    version: int
    channel: str
    dialler: str
    target: str
    nonce: bytes


class _Challenge(_Message, frozen=True, tag=2):
    nonce: bytes


class _Proof(_Message, frozen=True, tag=3):
    hello: bytes
    mac: bytes


class _Welcome(_Message, frozen=True, tag=4):
    hello: bytes
    mac: bytes


class _Ready(_Message, frozen=True, tag=5):
    pass


class _Refusal(_Message, frozen=True, tag=6):
    reason: str


_AnyMessage = _Greeting | _Challenge | _Proof | _Welcome | _Ready | _Refusal
_decoder: msgspec.msgpack.Decoder[_AnyMessage] = msgspec.msgpack.Decoder(_AnyMessage)


@dataclass(frozen=True, slots=True)
class Identity:
    """What this node brings to every handshake."""

    node_id: str
    secret: bytes
    members: Collection[str]
    """The other members."""
    hello: Callable[[], Hello]
    """Says who we are at this moment."""
    judge: Callable[[Hello], str | None]
    """The reason to refuse a member with this hello, or None."""


class Referee(Protocol):
    """Decides, of several connections to one peer, which go on; each answer is a reason to give up, or None."""

    def may_prove(self) -> str | None:
        """Asked by the dialler once the peer has answered: shall we go on with it."""

    def may_take(self) -> str | None:
        """Asked by the dialler once the peer has agreed: shall both use the connection from now on."""


class Handshake(Protocol):
    """One side of one handshake."""

    peer: str
    """Who is at the other end; of an acceptor "" until it is greeted, and a mere claim until `hello` is set."""
    channel: Channel
    hello: Hello | None
    """The peer's, once it has proven itself."""
    is_done: bool
    """Whether the connection carries frames from here on."""

    def open(self) -> bytes | None:
        """The message that this side sends first, if it is the one to begin."""

    def receive(self, message: bytes) -> bytes | None:
        """The answer to a message, or None. Raises: HandshakeError."""


class DiallerHandshake:
    """The side that connected, to one peer that it knows by name."""

    def __init__(self, identity: Identity, referee: Referee, *, peer: str, channel: Channel) -> None:
        self.peer = peer
        self.channel: Channel = channel
        self.hello: Hello | None = None
        self.is_done = False
        self._identity = identity
        self._referee = referee
        self._transcript = _Transcript(identity.secret)
        self._has_proven = False

    def open(self) -> bytes | None:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        greeting = _Greeting(_MAGIC, PROTOCOL_VERSION, self.channel, self._identity.node_id, self.peer, nonce)
        return self._transcript.add(msgspec.msgpack.encode(greeting))

    def receive(self, message: bytes) -> bytes | None:
        match _decode(message):
            case _Challenge(nonce) if not self._has_proven and len(nonce) == _NONCE_BYTES:
                _obey(self._referee.may_prove())
                self._transcript.add(message)
                self._has_proven = True
                hello = self._transcript.add(encode_frame(self._identity.hello()))
                return msgspec.msgpack.encode(_Proof(hello, self._transcript.mac("dialler")))
            case _Welcome(hello, mac) if self._has_proven and not self.is_done:
                self._transcript.add(hello)
                self._transcript.check(mac, "acceptor")
                self.hello = _judged_hello(hello, self.peer, self._identity)
                _obey(self._referee.may_take())
                self.is_done = True
                return msgspec.msgpack.encode(_Ready())
            case other:
                raise HandshakeError(f"{type(other).__name__[1:]} came out of turn")


class AcceptorHandshake:
    """The side that was connected to, by somebody who still has to say who it is."""

    def __init__(self, identity: Identity, may_welcome: Callable[[str, Channel], str | None]) -> None:
        """`may_welcome` is asked once the peer has proven itself: a reason not to want its connection, or None."""
        self.peer = ""
        self.channel: Channel = "main"
        self.hello: Hello | None = None
        self.is_done = False
        self._identity = identity
        self._may_welcome = may_welcome
        self._transcript = _Transcript(identity.secret)

    def open(self) -> bytes | None:
        return None

    def receive(self, message: bytes) -> bytes | None:
        match _decode(message):
            case _Greeting() as greeting if not self.peer:
                self._check_greeting(greeting)
                self._transcript.add(message)
                challenge = msgspec.msgpack.encode(_Challenge(secrets.token_bytes(_NONCE_BYTES)))
                return self._transcript.add(challenge)
            case _Proof(hello, mac) if self.peer and self.hello is None:
                self._transcript.add(hello)
                self._transcript.check(mac, "dialler")
                self.hello = _judged_hello(hello, self.peer, self._identity)
                _obey(self._may_welcome(self.peer, self.channel))
                own_hello = self._transcript.add(encode_frame(self._identity.hello()))
                return msgspec.msgpack.encode(_Welcome(own_hello, self._transcript.mac("acceptor")))
            case _Ready() if self.hello is not None and not self.is_done:
                self.is_done = True
                return None
            case other:
                raise HandshakeError(f"{type(other).__name__[1:]} came out of turn")

    def _check_greeting(self, greeting: _Greeting) -> None:
        own = self._identity.node_id
        if greeting.magic != _MAGIC or len(greeting.nonce) != _NONCE_BYTES:
            raise HandshakeError("the greeting is not one of a FalconQ member")
        if greeting.version != PROTOCOL_VERSION:
            raise HandshakeError(f"protocol version {greeting.version} is not ours, {PROTOCOL_VERSION}")
        if greeting.dialler == own:
            raise HandshakeError(f"the dialler has this node's own name, {own!r}: check the members' addresses")
        if greeting.dialler not in self._identity.members:
            raise HandshakeError(f"{greeting.dialler[:64]!r} is not a member")
        if greeting.target != own:
            raise HandshakeError(f"{greeting.target[:64]!r} was dialled, this is {own!r}: check the members' addresses")
        match greeting.channel:
            case "main" | "bulk" as channel:
                self.channel = channel
            case other:
                raise HandshakeError(f"there is no channel {other[:16]!r}")
        self.peer = greeting.dialler


def encode_refusal(reason: str) -> bytes:
    """The message that ends a handshake and says why."""
    return msgspec.msgpack.encode(_Refusal(reason[:_REASON_CHARS_MAX]))


class _Transcript:
    """Everything both sides said so far, under the secret."""

    def __init__(self, secret: bytes) -> None:
        self._mac = hmac.new(secret, f"{_MAGIC} {PROTOCOL_VERSION}".encode(), hashlib.sha256)

    def add(self, part: bytes) -> bytes:
        """Adds and returns the part; its length goes first, so that no two transcripts read the same."""
        self._mac.update(len(part).to_bytes(4, "big"))
        self._mac.update(part)
        return part

    def mac(self, role: str) -> bytes:
        """The proof of `role` that it knows the secret and saw the same."""
        branch = self._mac.copy()
        branch.update(role.encode())
        return branch.digest()

    def check(self, mac: bytes, role: str) -> None:
        if not hmac.compare_digest(mac, self.mac(role)):
            raise HandshakeError("the shared secret differs")


def _decode(message: bytes) -> _AnyMessage:
    try:
        decoded = _decoder.decode(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HandshakeError("the bytes are no handshake of a FalconQ member") from error
    if isinstance(decoded, _Refusal):
        raise HandshakeError(decoded.reason[:_REASON_CHARS_MAX], is_from_peer=True)
    return decoded


def _judged_hello(data: bytes, peer: str, identity: Identity) -> Hello:
    try:
        hello = decode_frame(data)
    except FrameError as error:
        raise HandshakeError(f"the hello is not one: {error}") from error
    if not isinstance(hello, Hello):
        raise HandshakeError(f"the hello is a {type(hello).__name__}")
    if hello.node != peer:
        raise HandshakeError(f"the hello of {peer!r} says {hello.node[:64]!r}")
    _obey(identity.judge(hello))
    return hello


def _obey(refusal: str | None) -> None:
    if refusal is not None:
        raise HandshakeError(refusal)
