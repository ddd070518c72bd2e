"""Signed bodies as Facebook sends them, each a function of its number alone, so that what must be stored is known.

Of every 20: 16 texts, 2 echoes, a reaction to an earlier text, a read receipt.
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha512
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAGES = 20
PERSONS_PER_PAGE = 2_000
BEGAN_MS = 1_790_000_000_000
PERIOD = 20
ECHOES, REACTION, READ = {4, 16}, 7, 13
REACTS_TO = 2_001  # so many bodies before it: a text, stored long since
_SENTENCE = (
    "hello do you have this in blue size 42 thank you 😀 how much is shipping to Đà Nẵng please my order 1047 has not "
    "arrived yet größer danke https://shop.example/p/17?ref=fb see you at 5 giá bao nhiêu ạ ok 👍🏽 <3 good morning"
)
_WORDS = _SENTENCE.split()


def _escaped(text: str) -> str:
    """As Facebook writes it: ASCII only, and slashes escaped (webhooks reference, section 2)."""
    return json.dumps(text).replace("/", "\\/")


_TEXTS = [_escaped(" ".join(_WORDS[(n * 7 + k * 3) % len(_WORDS)] for k in range(1 + n % 24))) for n in range(997)]
_HEART = _escaped("\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}")


class Stored(NamedTuple):
    """What a range of bodies must have become: rows of messages, reactions and receipts."""

    messages: int
    reactions: int
    read: dict[tuple[str, str], datetime]


def page_of(n: int) -> str:
    """The Page that the n-th body is for."""
    return str(100_200_300_400 + _scattered(n) % PAGES)


def person_of(n: int) -> str:
    """The person of the n-th body: a reaction's is the one who wrote the text."""
    return str(5_794_982_000_000_000 + _scattered(_text_before(n)) // PAGES % PERSONS_PER_PAGE)


def _scattered(n: int) -> int:
    """A number that looks like chance (Fibonacci hashing)."""
    return (n * 0x9E3779B97F4A7C15 & (2**64 - 1)) >> 32


def mid(n: int) -> str:
    """The id of the n-th message."""
    return "m_" + urlsafe_b64encode(sha512(b"%d" % n).digest()).decode()[:86]


def _text_before(n: int) -> int:
    return n - REACTS_TO if n % PERIOD == REACTION else n


def body(n: int) -> bytes:
    """The n-th body."""
    kind = n % PERIOD
    page, person, at = page_of(_text_before(n)), person_of(n), BEGAN_MS + n
    sender, recipient = (page, person) if kind in ECHOES else (person, page)
    if kind == REACTION:
        what = f'"reaction":{{"reaction":"love","emoji":{_HEART},"action":"react","mid":"{mid(n - REACTS_TO)}"}}'
    elif kind == READ:
        what = f'"read":{{"watermark":{at}}}'
    else:
        echo = '"is_echo":true,"app_id":1517776481860111,' if kind in ECHOES else ""
        what = f'"message":{{{echo}"mid":"{mid(n)}","text":{_TEXTS[n % len(_TEXTS)]}}}'
    return (
        f'{{"object":"page","entry":[{{"id":"{page}","time":{at + 250},"messaging":[{{"sender":{{"id":"{sender}"}},'
        f'"recipient":{{"id":"{recipient}"}},"timestamp":{at},{what}}}]}}]}}'
    ).encode()


def stored(numbers: Iterable[int]) -> Stored:
    """Tell what bodies must have become once all of them are stored."""
    messages = reactions = 0
    read: dict[tuple[str, str], datetime] = {}
    for n in numbers:
        kind = n % PERIOD
        if kind == REACTION:
            reactions += 1
        elif kind == READ:
            key = (page_of(n), person_of(n))
            at = datetime.fromtimestamp(BEGAN_MS // 1000, UTC) + timedelta(milliseconds=n)
            read[key] = max(at, read.get(key, at))
        else:
            messages += 1
    return Stored(messages, reactions, read)


def requests(numbers: Iterable[int], path: str, secret: bytes) -> Iterator[bytes]:
    """Whole HTTP requests with signed bodies."""
    for n in numbers:
        content = body(n)
        signature = hmac.digest(secret, content, "sha256").hex()
        yield (
            f"POST {path} HTTP/1.1\r\nHost: mirror.example\r\nUser-Agent: facebookexternalua\r\nAccept: */*\r\n"
            f"Accept-Encoding: deflate, gzip\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
            f"X-Hub-Signature-256: sha256={signature}\r\n\r\n"
        ).encode() + content
