"""What Facebook signs is read, and nothing that anybody else wrote."""

from __future__ import annotations

import base64
import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.facebook import signed_request
from app.facebook.signed_request import NotSignedError, UnreadableRequestError, read_signed_request, sign_request

SECRETS = [b"current-5e0c7f", b"previous-91ad3b"]
TOLD = {"user_id": "218471", "algorithm": "HMAC-SHA256", "issued_at": 1291836800, "expires": 1291840400}


def signed(secret: bytes = SECRETS[0], **changes: Any) -> str:
    told = {**TOLD, **changes}
    return sign_request(json.dumps({k: v for k, v in told.items() if v is not None}).encode(), secret)


def test_the_signature_is_that_of_the_payload_before_it_is_decoded() -> None:
    payload = base64.urlsafe_b64encode(json.dumps(TOLD).encode()).rstrip(b"=")
    mac = base64.urlsafe_b64encode(hmac.new(SECRETS[0], payload, sha256).digest()).rstrip(b"=")
    read = read_signed_request(f"{mac.decode()}.{payload.decode()}", SECRETS)
    assert (read.user_id, read.page_id) == ("218471", None)
    of_decoded = base64.urlsafe_b64encode(hmac.new(SECRETS[0], json.dumps(TOLD).encode(), sha256).digest())
    with pytest.raises(NotSignedError):
        read_signed_request(f"{of_decoded.decode()}.{payload.decode()}", SECRETS)


@pytest.mark.parametrize("secret", SECRETS)
def test_every_secret_of_the_app_is_good_and_padding_does_not_matter(secret: bytes) -> None:
    mac, _, payload = signed(secret).partition(".")
    assert read_signed_request(f"{mac}.{payload}", SECRETS).user_id == "218471"
    assert read_signed_request(f"{mac}=.{payload}", SECRETS).user_id == "218471"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.b",
        "no dot at all",
        signed(b"somebody else's"),
        signed().replace(".", ".x"),
        signed()[1:],
        "." + signed().partition(".")[2],
        signed().partition(".")[0] + ".",
        signed().upper(),
        "é" + signed(),
        signed() + "\udcff",
    ],
)
def test_what_is_not_signed_by_us_is_refused(text: str) -> None:
    with pytest.raises(NotSignedError):
        read_signed_request(text, SECRETS)
    with pytest.raises(NotSignedError):
        read_signed_request(signed(), [])


def test_every_secret_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    class Watched:
        digest = staticmethod(hmac.digest)

        @staticmethod
        def compare_digest(expected: bytes, given: bytes) -> bool:
            compared.append(expected)
            return hmac.compare_digest(expected, given)

    monkeypatch.setattr(signed_request, "hmac", Watched)
    for text in (signed(), signed(SECRETS[1])):
        compared.clear()
        read_signed_request(text, SECRETS)
        assert len(compared) == len(SECRETS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"algorithm": "NONE"}, "algorithm"),
        ({"algorithm": None}, "algorithm"),
        ({"algorithm": 5}, "algorithm"),
        ({"user_id": None}, "user_id"),
        ({"user_id": "0"}, "user_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": {"a": 1}}, "user_id"),
        ({"user_id": "9" * 500}, "user_id"),
        ({"user_id": "21\x0084"}, "user_id"),
        ({"user_id": "21\ud80084"}, "user_id"),
        ({"user_id": "me/accounts?a=1#"}, "user_id"),
    ],
)
def test_what_is_signed_and_says_nothing_is_told_apart(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnreadableRequestError, match=reason):
        read_signed_request(signed(**changes), SECRETS)


@pytest.mark.parametrize("payload", [b"", b"[]", b"5", b"null", b"\xff", b"{"])
def test_a_payload_that_is_no_object_is_told_apart(payload: bytes) -> None:
    with pytest.raises(UnreadableRequestError):
        read_signed_request(sign_request(payload, SECRETS[0]), SECRETS)


def test_ids_may_be_numbers_and_a_pages_own_request_names_it() -> None:
    assert read_signed_request(signed(user_id=218471), SECRETS).user_id == "218471"
    read = read_signed_request(signed(user_id=0, profile_id=1001), SECRETS)
    assert (read.user_id, read.page_id) == (None, "1001")


@pytest.mark.parametrize("at", [0, 1, 1291840400, 4102444800, None, "soon", True, 1e308])
@pytest.mark.parametrize("name", ["expires", "issued_at"])
def test_times_refuse_nobody_as_they_are_a_tokens(name: str, at: Any) -> None:
    assert read_signed_request(signed(**{name: at}), SECRETS).user_id == "218471"


def test_the_same_request_is_known_again_and_another_is_another() -> None:
    first, again = (read_signed_request(signed(), SECRETS) for _ in range(2))
    assert first.digest == again.digest
    assert read_signed_request(signed(issued_at=5), SECRETS).digest != first.digest


@settings(max_examples=200, derandomize=True, deadline=None)
@given(text=st.text(max_size=60) | st.binary(max_size=40).map(lambda b: b.decode("latin-1")))
def test_whatever_comes_is_refused_and_never_a_failure(text: str) -> None:
    with pytest.raises(NotSignedError):
        read_signed_request(text, SECRETS)
