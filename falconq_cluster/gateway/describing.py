"""What a route takes and gives, said once: what judges a request is what describes it.

What lives here: the declarations of parameters, headers, bodies and answers that each route has, and those that many
routes share.
Rules: `Query` reads what is declared here and refuses all else; a header that is not declared can't be read; each
status and code that a route answers is declared. Each has a sentence for people. To describe a new route: an
`Operation` for each of its methods, beside its handler, given to its `Route` (GET's stands for HEAD as well).
Must not know: aiohttp, routes, how a declaration becomes a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from falconq_cluster.config import NAME_PATTERN

JSON = "application/json"
NDJSON = "application/x-ndjson"
NUMBER_MAX = 2**63 - 1
PARTITION_MAX = 2**16 - 1

Schema = Mapping[str, object]
"""A JSON Schema, 2020-12."""


def says(text: str, **schema: object) -> msgspec.Meta:
    """Tells what a field of a struct means, and what msgspec can't tell of its shape. For use in `Annotated`."""
    return msgspec.Meta(description=text, extra_json_schema=schema or None)


def reference(struct: type) -> dict[str, object]:
    """The schema of a struct that is described by itself."""
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of the query or the path, or one header; subclasses say of which kind."""

    name: str
    text: str
    """What it means, in a sentence."""
    is_required: bool = False
    example: str | int | None = None
    """A value that shows its use; without one, people's examples leave it out."""

    def schema(self) -> dict[str, object]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Parameter):
    """A whole number."""

    least: int = 0
    most: int = NUMBER_MAX
    default: int | None = None

    def schema(self) -> dict[str, object]:
        bounds = {"minimum": self.least, "maximum": self.most, "default": self.default}
        return {"type": "integer"} | {name: value for name, value in bounds.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Parameter):
    """One of a few words; the first is the default."""

    choices: tuple[str, ...]

    def schema(self) -> dict[str, object]:
        return {"type": "string", "enum": list(self.choices), "default": self.choices[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Name(Parameter):
    """The name of a topic, a consumer, an attempt."""

    def schema(self) -> dict[str, object]:
        return NAME_SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Time(Parameter):
    """A point in time by RFC 3339."""

    def schema(self) -> dict[str, object]:
        return {"type": "string", "format": "date-time"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Parameter):
    """A string of its own shape; the handler judges what the pattern can't say."""

    pattern: str = ""

    def schema(self) -> dict[str, object]:
        return {"type": "string", "pattern": self.pattern} if self.pattern else {"type": "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What may be sent."""

    content: Mapping[str, type | Schema]
    """Media type -> struct or schema."""
    text: str = ""
    is_required: bool = True
    examples: Mapping[str, object] = field(default_factory=dict)
    """Media type -> a body that works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer that is no problem."""

    text: str
    status: int = 200
    body: type | Schema | None = None
    """Struct or schema; None for an answer without a body."""
    content_type: str = JSON
    headers: tuple[str, ...] = ()
    """Those of `ANSWER_HEADERS` that it may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one method of a route takes and gives."""

    id: str
    """A name that programs made from the document use; never changed."""
    summary: str
    tag: str
    text: str = ""
    parameters: tuple[Parameter, ...] = ()
    """Of the query; those of the path are in `VARIABLES`."""
    headers: tuple[Parameter, ...] = ()
    refused_headers: tuple[str, ...] = ()
    """Looked at only to be refused."""
    header_prefix: str = ""
    """Headers that begin so, in lower case, may be read; the text says which there are."""
    body: Body | None = None
    """None refuses one, or never looks at it."""
    replies: tuple[Reply, ...]
    problems: tuple[str, ...] = ()
    """Codes of `ERROR_CODES` beyond those of every route; a body brings its own."""
    is_probe: bool = False
    """Answered also when the node has too much to do."""
    readable_headers: frozenset[str] = field(init=False, repr=False)
    """What a handler may look at."""

    def __post_init__(self) -> None:
        names = [*(header.name for header in self.headers), *self.refused_headers]
        if self.body is not None:
            names += ["Content-Type", "Content-Encoding"]
        object.__setattr__(self, "readable_headers", frozenset(names))

    def all_problems(self) -> tuple[str, ...]:
        """Every code that may be answered."""
        codes = [*PROBLEMS_OF_ALL, *self.problems]
        if not self.is_probe:
            codes.append("overloaded")
        if self.body is not None:
            codes += PROBLEMS_OF_BODIES
        return tuple(dict.fromkeys(codes))


MESSAGE_ID_PATTERN = r"(0|[1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,18})"
"""The log index of its publish and its number there, without leading zeros: each message has one id."""
NAME_SCHEMA: dict[str, object] = {"type": "string", "pattern": f"^{NAME_PATTERN.pattern}$"}

VARIABLES: Mapping[str, Parameter] = {
    "topic": Name(name="topic", text="The topic's name.", is_required=True, example="orders"),
    "consumer": Name(name="consumer", text="The consumer's name.", is_required=True, example="billing"),
    "id": Text(
        name="id",
        text="The message's id, as its publish answered it.",
        is_required=True,
        pattern=f"^{MESSAGE_ID_PATTERN}$",
        example="9.0",
    ),
}
"""What stands in the path, by its name in the pattern."""

CONSUMER_ID = Name(
    name="consumerID",
    text="Who consumes. Each consumer gets every message; clients that share one share its messages.",
    is_required=True,
    example="billing",
)
PARTITION = Number(name="partitionID", text="Only this partition. Unset: all of them.", most=PARTITION_MAX)

MIN_INDEX = Number(
    name="FalconQ-Min-Index",
    text="Do this only once the node has applied this log index: read your own writes on any node.",
)
IDEMPOTENCY_KEY = Text(
    name="Idempotency-Key",
    text="With the same key a message is appended once, however often and through whichever nodes it is sent.",
    pattern="^[!-~]{1,256}$",
    example="9e1d0d5c-0c54-4b6b-9b52-5a4f0ef2a0f7",
)

PROBLEMS_OF_ALL = ("bad_request", "unknown_field", "internal")
PROBLEMS_OF_BODIES = ("request_timeout", "body_too_large", "unsupported_media_type")
PROBLEMS_OF_READS = ("index_not_reached", "no_leader", "not_ready", "overloaded")
"""`FalconQ-Min-Index` and `consistency=linearizable` may wait in vain."""
PROBLEMS_OF_WRITES = ("index_not_reached", "no_leader", "not_ready", "expired", "unknown_outcome", "overloaded")
"""Of everything that is proposed to the log."""

ANSWER_HEADERS: Mapping[str, tuple[str, Schema]] = {
    "FalconQ-Index": ("The log index that the answer shows; after a write, the write's.", {"type": "integer"}),
    "FalconQ-Node": ("The node that answered.", {"type": "string"}),
    "FalconQ-Leader": ("The leader as that node knows; absent without one.", {"type": "string"}),
    "Retry-After": ("Seconds after which a repeat may help.", {"type": "integer"}),
    "Cache-Control": ("`no-store` where an answer is of this moment.", {"type": "string"}),
    "Idempotency-Replayed": ("`true` when a publish was a repeat; absent else.", {"type": "string", "const": "true"}),
    "Link": ('`<…>; rel="next"` names the next page; absent when there is none.', {"type": "string"}),
    "ETag": ("The version of what is shown.", {"type": "string"}),
    "Content-Security-Policy": ("What the page may ask for: this node alone.", {"type": "string"}),
    "Location": ("Where that which was made is found.", {"type": "string"}),
}
"""What answers carry beside the standard headers."""
HEADERS_OF_ALL = ("FalconQ-Index", "FalconQ-Node", "FalconQ-Leader")
RETRY_STATUSES = (429, 503)
"""Those that carry `Retry-After`."""


def schema_of(shape: type | Schema) -> dict[str, object]:
    """The schema of a struct, as a reference, or the schema itself."""
    return reference(shape) if isinstance(shape, type) else dict(shape)


def structs_of(operations: Sequence[Operation]) -> list[type]:
    """The structs that are named by bodies and answers."""
    shapes = [
        shape
        for operation in operations
        for shape in (
            *([] if operation.body is None else operation.body.content.values()),
            *(reply.body for reply in operation.replies),
        )
    ]
    return list(dict.fromkeys(shape for shape in shapes if isinstance(shape, type)))
