from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from reconciler.graph.errors import (
    FOR_QUOTA,
    FOR_RATE,
    AccessDenied,
    BadAnswer,
    Blocked,
    FieldRefused,
    GraphError,
    GraphUnavailable,
    NotFound,
    RateLimited,
    TokenDead,
    TooHeavy,
    error_of,
)


def body(code: object, message: str = "something", **more: object) -> dict[str, Any]:
    return {"error": {"message": message, "type": "OAuthException", "code": code, **more}}


# section 2.5 of the Graph sheet, row by row
ROWS: list[tuple[int, dict[str, Any], type[GraphError]]] = [
    (500, body(1, "Please reduce the amount of data you're asking for, then retry"), TooHeavy),
    (400, body(1, "Please reduce the amount of data you're asking for", is_transient=True), TooHeavy),
    (400, body(1, "An unknown error occurred"), GraphUnavailable),
    (500, body(1, "An unknown error occurred"), GraphUnavailable),
    (400, body(2, "Please retry your request later"), GraphUnavailable),
    (400, body(99), GraphUnavailable),
    (400, body(-3), GraphUnavailable),
    (400, body(3001, is_transient=True), GraphUnavailable),
    (503, body(3001), GraphUnavailable),
    (400, body(3001), BadAnswer),
    (400, body(4), RateLimited),
    (400, body(17, error_subcode=2446079), RateLimited),
    (400, body(32), RateLimited),
    (400, body(613), RateLimited),
    (400, body(80001), RateLimited),
    (400, body(80002), RateLimited),
    (400, body(80006), RateLimited),
    (400, body(80006, is_transient=True), RateLimited),
    (429, body(1), RateLimited),
    (429, {}, RateLimited),
    (400, body(100, error_subcode=33), NotFound),
    (400, body(100, "Invalid cursors values"), NotFound),
    (400, body(100, "(#100) Tried accessing nonexisting field (colour) on node type (Message)"), FieldRefused),
    (500, body(100, "(#100) Tried accessing nonexisting field (colour)"), FieldRefused),
    (400, body(100, "(#100) Unknown fields: colour."), FieldRefused),
    (400, body(104), AccessDenied),
    (400, body(190, error_subcode=463), TokenDead),
    (401, body(190), TokenDead),
    (500, body(190), TokenDead),
    (400, body(190, is_transient=True), TokenDead),
    (400, body("190"), TokenDead),
    (400, body(102), TokenDead),
    (403, body(10), AccessDenied),
    (403, body(200), AccessDenied),
    (403, body(299), AccessDenied),
    (400, body(230), NotFound),
    (400, body(551, error_subcode=1545041), NotFound),
    (400, body(368), Blocked),
    (400, body(2500), BadAnswer),
    (400, body(1200), BadAnswer),
    (400, body(2018001), NotFound),
    (400, body(2018218), NotFound),
    (400, body(2018247), NotFound),
    (400, body(None), BadAnswer),
    (400, body({}), BadAnswer),
    (400, {"error": "a text"}, BadAnswer),
    (400, {}, BadAnswer),
    (404, {}, BadAnswer),
    (302, {}, BadAnswer),
    (408, {}, GraphUnavailable),
    (500, {}, GraphUnavailable),
    (502, {}, GraphUnavailable),
]


@pytest.mark.parametrize(("status", "answer", "kind"), ROWS)
def test_every_error_of_graph_is_sorted_by_what_to_do(
    status: int, answer: dict[str, Any], kind: type[GraphError]
) -> None:
    assert type(error_of(status, answer)) is kind


@pytest.mark.parametrize("answer", [None, [], "text", 1, {"error": {"message": None}}])
def test_an_answer_of_any_shape_is_an_error_and_no_crash(answer: object) -> None:
    assert isinstance(error_of(400, answer), BadAnswer)


def test_the_refused_field_is_named() -> None:
    error = error_of(400, body(100, "(#100) Tried accessing nonexisting field (reply_to) on node type (Message)"))
    assert isinstance(error, FieldRefused)
    assert (error.field, error.node_type) == ("reply_to", "Message")
    error = error_of(400, body(100, '(#100) Unknown field "stickers"'))
    assert isinstance(error, FieldRefused)
    assert (error.field, error.node_type) == ("stickers", None)


@pytest.mark.parametrize(
    "message",
    [
        "(#100) Tried accessing nonexistent field (reply_to) on node type (Message)",
        "(#100) Tried accessing non-existing field 'reply_to'",
        "(#100) Invalid field: reply_to",
        "(#100) The field (reply_to) does not exist",
    ],
)
def test_a_refused_field_is_found_however_the_refusal_is_worded(message: str) -> None:
    error = error_of(400, body(100, message))
    assert isinstance(error, FieldRefused)
    assert error.field == "reply_to"


@pytest.mark.parametrize(
    ("code", "scope", "pause"),
    [
        (4, "app", FOR_QUOTA),
        (17, "page", FOR_QUOTA),
        (32, "page", FOR_QUOTA),
        (80001, "page", FOR_QUOTA),
        (80006, "page", FOR_QUOTA),
        (613, "page", FOR_RATE),
    ],
)
def test_a_limit_says_who_has_to_wait_and_about_how_long(code: int, scope: str, pause: object) -> None:
    error = error_of(400, body(code), wait=timedelta(minutes=3))
    assert isinstance(error, RateLimited)
    assert (error.scope, error.pause, error.wait) == (scope, pause, timedelta(minutes=3))


def test_a_429_without_a_code_is_a_matter_of_calls_a_second() -> None:
    error = error_of(429, None)
    assert isinstance(error, RateLimited)
    assert (error.scope, error.pause) == ("page", FOR_RATE)


def test_the_text_names_the_codes_and_never_the_token() -> None:
    error = error_of(400, body(190, "Malformed access token EAAsecret", error_subcode=467), token="EAAsecret")
    assert str(error) == "Graph error 190/467 (HTTP 400): Malformed access token (token)"
    assert (error.code, error.subcode) == (190, 467)


def test_a_token_at_the_end_of_a_long_message_is_not_cut_open() -> None:
    token = "EAA" + "x" * 200
    assert "EAAx" not in str(error_of(400, body(190, "m" * 250 + token), token=token))
