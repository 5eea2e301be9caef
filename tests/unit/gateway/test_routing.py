"""Which route a path takes, and what its variables are."""

from __future__ import annotations

import pytest

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.describing import Operation, Reply
from falconq_cluster.gateway.routing import Answer, Call, Route, Router


async def _handler(call: Call) -> Answer:
    raise AssertionError(f"{call.route.pattern}: to find a route calls no handler")


PATTERNS = (
    "/topics",
    "/topic/{topic}/publish",
    "/v1/topics",
    "/v1/topics/{topic}",
    "/v1/topics/{topic}/messages",
    "/v1/topics/{topic}/messages:batch",
    "/v1/topics/{topic}/messages/{id}",
    "/v1/topics/{topic}/consumers/{consumer}/pull",
)
LOOK = Operation(id="look", summary="Look", tag="Tests", replies=(Reply(text="Seen."),))
ROUTER = Router([Route(("GET",), pattern, _handler, LOOK) for pattern in PATTERNS])


@pytest.mark.parametrize(
    ("path", "pattern", "variables"),
    [
        ("/topics", "/topics", {}),
        ("/topic/a/publish", "/topic/{topic}/publish", {"topic": "a"}),
        ("/v1/topics/messages", "/v1/topics/{topic}", {"topic": "messages"}),
        ("/v1/topics/a%2Fb", "/v1/topics/{topic}", {"topic": "a/b"}),
        ("/v1/topics/a/messages", "/v1/topics/{topic}/messages", {"topic": "a"}),
        ("/v1/topics/a/messages:batch", "/v1/topics/{topic}/messages:batch", {"topic": "a"}),
        ("/v1/topics/a/messages/7.0", "/v1/topics/{topic}/messages/{id}", {"topic": "a", "id": "7.0"}),
        (
            "/v1/topics/a/consumers/b%20c/pull",
            "/v1/topics/{topic}/consumers/{consumer}/pull",
            {"topic": "a", "consumer": "b c"},
        ),
        ("/v1/topics/", "/v1/topics/{topic}", {"topic": ""}),
    ],
)
def test_a_path_takes_the_route_of_its_segments(path: str, pattern: str, variables: dict[str, str]) -> None:
    route, found = ROUTER.find("GET", path)
    assert (route.pattern, found) == (pattern, variables)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/topics/a/nothing", "/topic/a", "/v1/topics/a/messages/1/2", "x"])
def test_any_other_path_is_not_found_and_the_nearest_ones_are_named(path: str) -> None:
    with pytest.raises(FalconQError, match=r"nearest are /\S+, /\S+, /\S+, and GET /v1/docs") as caught:
        ROUTER.find("GET", path)
    assert caught.value.code.code == "route_not_found"


def test_another_method_is_told_which_ones_there_are() -> None:
    with pytest.raises(FalconQError, match="answers GET, not PUT") as caught:
        ROUTER.find("PUT", "/v1/topics/a")
    assert caught.value.details == {"allow": "GET"}


def test_a_segment_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(FalconQError, match="not UTF-8"):
        ROUTER.find("GET", "/v1/topics/%ff")


def test_a_route_that_says_nothing_of_a_method_is_told_what_to_add() -> None:
    with pytest.raises(AssertionError, match=r"says nothing of PUT: add an Operation of gateway/describing\.py"):
        Route(("GET", "HEAD", "PUT"), "/v1/topics/{topic}", _handler, {"GET": LOOK})
