"""The one tree of errors, and the codes that clients see.

What lives here: every error code with its HTTP status and whether a repeat may help.
Rules: a code is an API and is never renamed or reused. A message names what was refused, the value, and what to do.
Kinds: a *refusal* is a value that the machine returned; *trouble* is no leader or a passed deadline, where
"unknown outcome" is said plainly; a *bug* stops the process with exit code 70.
Must not know: HTTP libraries, transports, the machine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One code of the contract."""

    code: str
    status: int
    title: str
    is_retryable: bool = False


def _codes(*rows: ErrorCode) -> dict[str, ErrorCode]:
    return {row.code: row for row in rows}


ERROR_CODES: dict[str, ErrorCode] = _codes(
    ErrorCode("bad_request", 400, "The request is not valid"),
    ErrorCode("unknown_field", 400, "A field or parameter is not known"),
    ErrorCode("unknown_priority", 400, "The topic has no such level"),
    ErrorCode("unknown_partition", 404, "The topic has no such partition"),
    ErrorCode("topic_not_found", 404, "There is no such topic"),
    ErrorCode("consumer_not_found", 404, "The topic has no such consumer"),
    ErrorCode("message_not_found", 404, "The topic has no such message"),
    ErrorCode("route_not_found", 404, "There is no such route"),
    ErrorCode("method_not_allowed", 405, "The route does not answer this method"),
    ErrorCode("request_timeout", 408, "The request did not come whole in time", is_retryable=True),
    ErrorCode("sequence_gap", 409, "An earlier sequence of the producer is missing"),
    ErrorCode("lease_lost", 409, "The lease is over"),
    ErrorCode("already_delivered", 409, "The message was handed out already"),
    ErrorCode("offset_gone", 410, "What was asked for is not kept any more"),
    ErrorCode("precondition_failed", 412, "The resource is not as the condition asks"),
    ErrorCode("body_too_large", 413, "The body is larger than the limit"),
    ErrorCode("unsupported_media_type", 415, "The body is of another type"),
    ErrorCode("key_reused", 422, "The key was used for another message"),
    ErrorCode("dedupe_full", 429, "As many keys are remembered as may be", is_retryable=True),
    ErrorCode("delayed_full", 429, "As many messages are delayed as may be", is_retryable=True),
    ErrorCode("leases_full", 429, "The consumer has as many unsettled messages as it may", is_retryable=True),
    ErrorCode("topic_full", 429, "The topic keeps as much as it may", is_retryable=True),
    ErrorCode("overloaded", 429, "The node holds as much waiting work as it may", is_retryable=True),
    ErrorCode("expired", 503, "The operation was not applied before its time ran out", is_retryable=True),
    ErrorCode("no_leader", 503, "There is no leader with a quorum", is_retryable=True),
    ErrorCode("not_ready", 503, "The node is starting, catching up or stopping", is_retryable=True),
    ErrorCode("leader_not_moved", 503, "The member did not take over the leadership", is_retryable=True),
    ErrorCode("index_not_reached", 503, "The node has not applied the wanted index yet", is_retryable=True),
    ErrorCode("unknown_outcome", 504, "It is not known whether the operation was applied", is_retryable=False),
    ErrorCode("internal", 500, "The node has a defect"),
)


class FalconQError(Exception):
    """An error with a code of `ERROR_CODES`, for one caller."""

    def __init__(self, code: str, message: str, *, details: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = ERROR_CODES[code]
        self.message = message
        self.details = details or {}

    def at_place(self, place: int) -> FalconQError:
        """The refusal of a whole batch for its message at this place."""
        message = f"message {place}: {self.message}; nothing was stored"
        return FalconQError(self.code.code, message, details=self.details | {"place": place})


class ConfigurationError(FalconQError):
    """The node can't start as it was asked to; the message says what to change (exit code 78)."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_request", message)


class CorruptionError(Exception):
    """Stored bytes are damaged where damage can't be explained by a crash; names file and position."""


class StopProcess(BaseException):
    """The node must not go on: after a failed sync, a divergence or a bug.

    Not an `Exception`, so that no door swallows it. `exit_code`: 70 for a bug or divergence, 74 for disk errors.
    """

    def __init__(self, reason: str, exit_code: int = 70) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = exit_code
