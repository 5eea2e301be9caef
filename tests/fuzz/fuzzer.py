"""Requests made from the OpenAPI document, and what is wrong with their answers.

What lives here: a fuzzer over all operations that the document names, by schemathesis.
Rules: requests go to the nodes in turn. No 5xx but 503 and 504 with `retryable`; no answer outside its schema, which is
closed here; what breaks the schema is refused; two nodes answer a read alike when both show the same log index. The
same seed makes the same requests as long as the answers are the same. Values come from small pools and from answers, so
that requests meet what others made.
Must not know: what a route means.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok as Made
from schemathesis.specs.openapi.checks import negative_data_rejection

from tests.fuzz.pools import CONSUMERS, MADE_TOPICS, Pools
from tests.unit.gateway.described import Described

REQUEST_SECONDS = 15.0
STREAM_SECONDS = 0.5
"""How long an answer without an end is read."""
TROUBLE = (503, 504)
SHOWN_CHARS_MAX = 500
NODES_OWN = frozenset(("getCluster", "getLiveness", "getReadiness", "getQuorumCritical", "getMetrics"))
"""What a node says about itself: another node says another thing, and a 503 is not about the request."""
JUDGED_ONE_BY_ONE = frozenset(("createMessages",))
"""A part that breaks the schema is refused by itself, and the request is not."""
EFFECTS_BY_GET = frozenset(("consume",))
Request = Case[Any]
MESSAGES: list[dict[str, Any]] = [
    {"message": number, "priority": priority} for number in range(3) for priority in ("low", "high")
]
DELAYED: list[dict[str, Any]] = [{"message": number, "delayMs": 600_000} for number in range(5)]
AGES = frozenset(("oldestAgeMs",))
"""They are of the moment of asking, not of an index."""
AGES_OF_MESSAGES = frozenset(("state", "ahead", "dueAt", "leaseExpiresAt"))
"""The same of one message, whose lease may end at any moment."""
WHOLE_MAX = 2**53
OK = 200
OF_DELIVERIES = frozenset(("lease", "deliveryCount"))
"""What changes from one delivery of a message to the next."""
BACKUP, FRAME_BYTES = b"falconq backup 1\n", 8
"""How a backup begins, and what stands before each of its frames."""
SAME_VIEW = ("falconq-index", "falconq-leader")


@dataclass(slots=True)
class Findings:
    """What a pass saw."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(operation id, status) -> answers."""
    compared_count: int = 0
    """Reads that were held against another node's answer at one index."""
    unanswered_count: int = 0
    """Requests to a node that was down."""
    mistakes: dict[str, str] = field(default_factory=dict)
    """What is wrong -> one request that showed it."""

    def note(self, what: str, request: str) -> None:
        self.mistakes.setdefault(what[: 2 * SHOWN_CHARS_MAX], request)

    def never_succeeded(self) -> list[str]:
        """Operations of which no request did what it asked for."""
        done = {operation for operation, status in self.statuses if status < 400}
        return sorted({operation for operation, _ in self.statuses} - done)

    @property
    def request_count(self) -> int:
        return sum(self.statuses.values())


class Fuzzer:
    """Sends what the document allows, and what it forbids, to nodes in turn."""

    def __init__(self, document: dict[str, Any], urls: Sequence[str], *, seed: int) -> None:
        self.findings = Findings()
        self.down: set[str] = set()
        """Nodes that need not answer."""
        self._document = document
        self._urls = list(urls)
        self._turn = cycle(range(len(urls)))
        self._seed = seed
        self._round = 0
        self._pools = Pools()
        self._described = Described(document)
        self._session = requests.Session()

    def close(self) -> None:
        self._session.close()

    def run(self, *, valid: int, invalid: int) -> None:
        """One round: of each operation so many requests that fit the document, and so many that do not."""
        self._round += 1
        for mode, count, document in (
            (GenerationMode.POSITIVE, valid, self._pools.put_into(self._document)),
            (GenerationMode.NEGATIVE, invalid, self._document),
        ):
            if count == 0:
                continue
            operations: list[Any] = []
            for result in schemathesis.openapi.from_dict(document).get_all_operations():
                assert isinstance(result, Made), result
                operations.append(result.ok())
            # In another order each time: a kill meets other routes, and each finds what others left.
            random.Random(f"{self._seed} {self._round} {mode}").shuffle(operations)
            for operation in operations:
                if operation.method == "head":
                    continue  # Made from each GET.
                if mode == GenerationMode.POSITIVE and "{topic}" in operation.path:
                    self._prepare()
                strategy = operation.as_strategy(generation_mode=mode)
                if mode == GenerationMode.POSITIVE:
                    strategy = strategy.map(_with_whole_numbers)
                    if "{id}" in operation.path:
                        known = st.sampled_from([None, *self._pools.messages])
                        strategy = st.tuples(strategy, known).map(_of_known_message)
                self._run(strategy, count)

    def _prepare(self) -> None:
        """Topics with messages, and consumers with leases: earlier requests may have deleted them."""
        for topic in MADE_TOPICS:
            self._pools.learn(self._do(f"/v1/topics/{topic}/messages:batch", MESSAGES + DELAYED), {})
            for consumer in CONSUMERS:
                body = self._do(f"/v1/topics/{topic}/consumers/{consumer}/pull", {"max": 2})
                self._pools.learn(body, {})

    def _do(self, path: str, body: object) -> Any:
        """The answer of the first node that has one."""
        for url in self._urls:
            with suppress(requests.RequestException):
                response = self._session.post(url + path, json=body, timeout=REQUEST_SECONDS)
                if response.ok:
                    return _json(response)
        return {}

    def _run(self, strategy: Any, count: int) -> None:
        @seeded(self._seed * 10_000 + self._round)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        )
        @given(case=strategy)
        def ask(case: Request) -> None:
            self._ask(case)

        with suppress(Unsatisfiable):  # Nothing breaks the schema of an operation that takes nothing.
            ask()

    def _ask(self, case: Request) -> None:
        place = next(self._turn)
        operation = str(case.operation.definition.raw["operationId"])
        response = self._send(case, self._urls[place])
        if response is None:
            return
        self.findings.statuses[operation, response.status_code] += 1
        self._judge(case, operation, response)
        if _is_stream(case) and response.status_code == OK:
            self._compare_streams(case, response, place)
        if case.method != "GET" or operation in EFFECTS_BY_GET or _is_stream(case):
            return
        if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
            return
        head = self._send(case, self._urls[place], method="HEAD")
        if head is not None and head.content:
            self.findings.note(f"HEAD {case.path}: it has a body", case.as_curl_command())
        if operation not in NODES_OWN and response.status_code not in TROUBLE:
            least = {"FalconQ-Min-Index": response.headers["falconq-index"][0]}
            for step in range(1, len(self._urls)):
                other = self._send(case, self._urls[(place + step) % len(self._urls)], headers=least)
                if other is not None:
                    self._compare(case, response, other)

    def _send(
        self, case: Request, url: str, *, headers: dict[str, str] | None = None, method: str | None = None
    ) -> Any:
        """The answer, or None of a node that is down."""
        try:
            if method is None:
                seconds = STREAM_SECONDS if _is_stream(case) else REQUEST_SECONDS
                return case.call(base_url=url, session=self._session, timeout=seconds, headers=headers)
            sent = case.as_transport_kwargs(base_url=url) | {"method": method}
            return self._session.request(**sent, timeout=REQUEST_SECONDS)
        except requests.RequestException as error:
            self.findings.unanswered_count += 1
            if url not in self.down:
                self.findings.note(f"{case.method} {case.path}: no answer: {error!r}", case.as_curl_command())
            return None

    def _judge(self, case: Request, operation: str, response: Any) -> None:
        status = response.status_code
        where = f"{case.method} {case.path} {status}"
        headers = {name.title(): values[0] for name, values in response.headers.items()}
        found = self._described.mistakes(
            method=case.method,
            target=response.request.path_url,
            status=status,
            headers=headers,
            body=response.content,
        )
        body = _json(response)
        is_trouble = status in TROUBLE and (isinstance(body.get("retryable"), bool) or operation in NODES_OWN)
        if status >= 500 and not is_trouble:
            found.append(f"{where}: neither 503 nor 504 with `retryable`")
        if status < 400:
            self._pools.learn(body, response.headers)
            if operation not in JUDGED_ONE_BY_ONE:
                found += [f"{where}: {error}" for error in _accepted_wrongly(case, response)]
        for each in found:
            self.findings.note(
                each, f"{case.as_curl_command()[:SHOWN_CHARS_MAX]} -> {response.content[:SHOWN_CHARS_MAX]!r}"
            )

    def _compare(self, case: Request, one: Any, other: Any) -> None:
        if other.status_code in TROUBLE or any(one.headers.get(name) != other.headers.get(name) for name in SAME_VIEW):
            return
        self.findings.compared_count += 1
        if one.status_code != other.status_code or _lasting(one) != _lasting(other):
            shown = [f"{each.status_code} {each.content[:SHOWN_CHARS_MAX]!r}" for each in (one, other)]
            self.findings.note(
                f"{case.method} {case.path}: two nodes differ at one index",
                f"{case.as_curl_command()[:SHOWN_CHARS_MAX]} -> {' / '.join(shown)}",
            )

    def _compare_streams(self, case: Request, one: Any, place: int) -> None:
        """What one node's stream gave comes again through the next one, as it was."""
        other = self._send(case, self._urls[(place + 1) % len(self._urls)])
        if other is None or other.status_code != OK:
            return
        before, after = messages_of(one.content), messages_of(other.content)
        both = before.keys() & after.keys()
        self.findings.compared_count += len(both)
        for message in sorted(both):
            if before[message] != after[message]:
                shown = f"{case.as_curl_command()[:SHOWN_CHARS_MAX]} -> {before[message]} / {after[message]}"
                self.findings.note(f"{case.method} {case.path}: two nodes' streams differ in a message", shown)


def messages_of(stream: bytes) -> dict[str, dict[str, Any]]:
    """Id of each message that an event stream gave -> the message, without what is of the delivery."""
    found = {}
    for event in stream.decode(errors="replace").split("\n\n")[:-1]:  # The last one may be cut.
        lines = event.splitlines()
        if "event: message" in lines:
            delivery = json.loads("\n".join(line.removeprefix("data: ") for line in lines if line.startswith("data: ")))
            found[delivery["id"]] = {name: part for name, part in delivery.items() if name not in OF_DELIVERIES}
    return found


def _accepted_wrongly(case: Request, response: Any) -> Iterator[Exception]:
    """What breaks the schema in a request that was not refused."""
    try:
        case.validate_response(response, checks=[negative_data_rejection])
    except FailureGroup as group:
        yield from group.exceptions


def _is_stream(case: Request) -> bool:
    """Whether the answer goes on until somebody leaves."""
    answers = case.operation.definition.raw["responses"].values()
    return any("text/event-stream" in answer.get("content", {}) for answer in answers)


def _with_whole_numbers(case: Request) -> Request:
    """5.0 is an integer to a JSON schema, and to no field of ours."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: whole(part) for name, part in value.items()}
        if isinstance(value, list):
            return [whole(part) for part in value]
        return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < WHOLE_MAX else value

    if isinstance(case.body, dict | list):
        case.body = whole(case.body)
    return case


def _of_known_message(drawn: tuple[Request, tuple[str, str] | None]) -> Request:
    """A topic and an id that belong together are no matter of chance."""
    case, known = drawn
    if known is not None:
        case.path_parameters = {**(case.path_parameters or {}), "topic": known[0], "id": known[1]}
    return case


def _lasting(response: Any) -> Any:
    """What is answered, without what goes on while nothing happens."""

    def lasting(value: Any) -> Any:
        if isinstance(value, dict):
            ages = AGES | AGES_OF_MESSAGES if "ahead" in value else AGES
            return {name: lasting(part) for name, part in value.items() if name not in ages}
        return [lasting(part) for part in value] if isinstance(value, list) else value

    if response.content.startswith(BACKUP):
        return held_by(response.content)
    try:
        return lasting(json.loads(response.content))
    except ValueError:
        return response.content


def held_by(backup: bytes) -> list[bytes]:
    """Its frames, each with its length in front, but for the first one, which names the node, and the last, a sum."""
    frames, place = [], len(BACKUP)
    while place < len(backup):
        end = place + FRAME_BYTES + int.from_bytes(backup[place : place + 4], "little")
        frames.append(backup[place:end])
        place = end
    return frames[1:-1]


def _json(response: Any) -> dict[str, Any]:
    try:
        body = json.loads(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
