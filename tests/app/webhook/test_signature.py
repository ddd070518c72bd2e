from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from app.webhook.signature import matching_secret, sign

CURRENT, PREVIOUS = b"current secret", b"previous secret"
# as it is on the wire: escaped by Meta, slashes too (webhooks reference, section 2)
BODY = rb'{"text":"\u00e4\u00f6\u00e5 \ud83d\ude00 https:\/\/example.org\/x"}'


def signature_of(body: bytes, secret: bytes = CURRENT) -> bytes:
    return b"sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()


def test_a_signature_is_the_hex_hmac_of_the_raw_bytes() -> None:
    assert sign(BODY, CURRENT) == signature_of(BODY)
    assert len(sign(BODY, CURRENT)) == 71


def test_the_body_on_the_wire_is_what_was_signed() -> None:
    assert matching_secret(BODY, signature_of(BODY), [CURRENT]) == 0


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_body_written_anew_is_another_body(*, ensure_ascii: bool) -> None:
    anew = json.dumps(json.loads(BODY), ensure_ascii=ensure_ascii, separators=(",", ":")).encode()
    assert matching_secret(anew, signature_of(BODY), [CURRENT]) is None


def test_the_previous_secret_is_accepted_and_told_from_the_current_one() -> None:
    secrets = [CURRENT, PREVIOUS]
    assert matching_secret(BODY, signature_of(BODY), secrets) == 0
    assert matching_secret(BODY, signature_of(BODY, PREVIOUS), secrets) == 1


def test_without_a_secret_nothing_matches() -> None:
    assert matching_secret(BODY, signature_of(BODY, b""), []) is None


def test_hex_digits_may_be_of_either_case() -> None:
    header = signature_of(BODY)
    assert matching_secret(BODY, b"sha256=" + header.removeprefix(b"sha256=").upper(), [CURRENT]) == 0


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"sha256=",
        signature_of(BODY)[:-1],
        signature_of(BODY) + b"0",
        signature_of(BODY) + b" ",
        signature_of(BODY).removeprefix(b"sha256="),
        b"sha1=" + hmac.new(CURRENT, BODY, hashlib.sha1).hexdigest().encode(),
        signature_of(BODY, b"another secret"),
        signature_of(BODY + b" "),
        b"sha256=" + b"0" * 64,
        b"sha256=\xff\x00",
    ],
)
def test_any_other_signature_matches_nothing(header: bytes | None) -> None:
    assert matching_secret(BODY, header, [CURRENT, PREVIOUS]) is None


@pytest.mark.parametrize("position", [0, 10, len(BODY) - 1])
def test_a_body_that_differs_in_one_byte_does_not_match(position: int) -> None:
    changed = bytearray(BODY)
    changed[position] ^= 1
    assert matching_secret(bytes(changed), signature_of(BODY), [CURRENT]) is None
