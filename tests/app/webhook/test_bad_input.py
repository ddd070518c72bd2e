from __future__ import annotations

import asyncio
import json
import random
import string
from typing import TYPE_CHECKING, Any

import pytest

from app.webhook.payload import MAX_ID
from app.webhook.receiver import MAX_BODY
from sql.json_values import unescape
from sql.mids import MAX_BYTES
from tests.app.webhook.support import PAGE, SENT_AT, delivery_of, escaped, post, text_item

if TYPE_CHECKING:
    import httpx

    from sql.pool import Pool

GOOD = text_item(9_999, text="the neighbour")
DEEP = 100_000


def raw(item: dict[str, Any], marker: Any, replacement: bytes) -> bytes:
    """A delivery of an item and its neighbour, with raw bytes in the place of a marker."""
    return escaped(delivery_of(item, GOOD)).replace(json.dumps(marker).encode(), replacement)


def text_of(replacement: bytes) -> bytes:
    return raw(text_item(text="MARK"), "MARK", replacement)


def mid_of(replacement: bytes) -> bytes:
    return raw(text_item(mid="MARK"), "MARK", replacement)


def person_of(replacement: bytes) -> bytes:
    return raw(text_item() | {"sender": {"id": "MARK"}}, "MARK", replacement)


def time_of(replacement: bytes) -> bytes:
    return raw(text_item() | {"timestamp": "MARK"}, "MARK", replacement)


def extra_of(replacement: bytes) -> bytes:
    return raw(text_item(extra="MARK"), "MARK", replacement)


def event_of(replacement: bytes) -> bytes:
    return raw({"sender": {"id": "7"}, "recipient": {"id": PAGE}, "telepathy": "MARK"}, "MARK", replacement)


def random_text(characters: str, length: int) -> bytes:
    """Text that no compression makes fit into an index."""
    return json.dumps("".join(random.Random(7).choices(characters, k=length))).encode()


ODD = {
    "nul": rb'"a\u0000b"',
    "lone surrogate": rb'"\ud800 \udfff"',
    "invalid utf-8": b'"\xff\xfe\xed\xa0\x80"',
    "1e308": b"1e308",
    "1e400": b"1e400",
    "nan": b"NaN",
    "minus infinity": b"-Infinity",
    "huge int": b"9" * 5_000,
    "just past int64": b"9223372036854775808",
    "true": b"true",
    "null": b"null",
    "empty": b'""',
    "list": b"[]",
    "object": b"{}",
    "deep": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "depth that orjson reads and does not write": b"[" * 300 + b"]" * 300,
    "duplicate keys": b'{"mid":"a","mid":"b","id":"a","id":"b"}',
    "long": random_text("abcdefghijklmnopqrstuvwxyz0123456789", 3_000),
    "long, of four bytes each": random_text("😀🦀🎲🧊🪐🫠🥁🐙", 700),
}
# what no row can be made of; all else is stored
NO_TEXT = {
    "true",
    "list",
    "object",
    "deep",
    "deep objects",
    "depth that orjson reads and does not write",
    "duplicate keys",
}
NO_ID = NO_TEXT | {"huge int", "long", "long, of four bytes each"}
DEAD = {"text_of": NO_TEXT, "mid_of": NO_ID | {"null", "empty"}, "person_of": NO_ID}
PLACES = [text_of, mid_of, person_of, time_of, extra_of, event_of]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.__name__))
async def test_a_value_that_nobody_expects_costs_neither_the_answer_nor_a_neighbour(
    client: httpx.AsyncClient, pool: Pool, place: Any, name: str
) -> None:
    answers = await asyncio.gather(post(client, place(ODD[name])), post(client, delivery_of(text_item(8_888))))
    assert [answer.status_code for answer in answers] == [200, 200]
    stored = {r["text"] for r in await pool.fetch("SELECT text FROM messages")}
    assert {"the neighbour", "text 8888"} <= stored
    rows = await pool.fetch("SELECT state, items, dead_letters FROM webhook_deliveries ORDER BY items")
    assert [(r["state"], r["items"]) for r in rows[:1]] == [("stored", 1)]
    assert rows[1]["items"] == 2
    assert rows[1]["state"] == ("partial" if name in DEAD.get(place.__name__, ()) else "stored")
    assert all(letter["reason"] for letter in rows[1]["dead_letters"] or ())


@pytest.mark.parametrize(
    ("via", "item"),
    [
        ("calls", {"id": "c_1", "event": "connect", "from": "9" * (MAX_ID + 1)}),
        ("calls", {"id": "c_1", "event": "connect", "to": 10**MAX_ID}),
        ("changes", {"field": "inbox_labels", "value": {"user": {"id": "9" * (MAX_ID + 1)}}}),
    ],
)
async def test_a_person_whose_id_fits_no_index_is_told_at_the_door(
    client: httpx.AsyncClient, pool: Pool, via: str, item: Any
) -> None:
    body = delivery_of(item, via=via)
    body["entry"].append(delivery_of(GOOD)["entry"][0])
    assert (await post(client, body)).status_code == 200
    assert await pool.fetchval("SELECT text FROM messages") == "the neighbour"
    letters = await pool.fetchval("SELECT dead_letters FROM webhook_deliveries WHERE state = 'partial'")
    assert letters == [
        {"path": f"entry[0].{via}[0]", "reason": f"a person's id has more than {MAX_ID} characters"},
    ]


CHANCE = random.Random(7)
WIDE = [chr(n) for n in range(0x10000, 0x110000)]
LONGEST_MIDS = {
    "ascii": "".join(CHANCE.choices(string.ascii_letters + string.digits, k=MAX_BYTES)),
    "wide": "".join(CHANCE.choices(WIDE, k=MAX_BYTES // 4)),
    "NUL": "\x00" * (MAX_BYTES // 5),
}


@pytest.mark.parametrize("mid", LONGEST_MIDS.values(), ids=list(LONGEST_MIDS))
async def test_the_longest_ids_fit_every_index_whole(client: httpx.AsyncClient, pool: Pool, mid: str) -> None:
    page, person = ("".join(CHANCE.choices(WIDE, k=MAX_ID)) for _ in range(2))
    parties = {"sender": {"id": person}, "recipient": {"id": page}, "timestamp": SENT_AT}
    items = [
        parties | {"message": {"mid": mid, "text": "wide"}},
        parties | {"reaction": {"mid": mid, "action": "react"}},
        parties | {"telepathy": 1},
    ]
    assert (await post(client, delivery_of(*items, page_id=page))).status_code == 200
    assert await pool.fetchval("SELECT state FROM webhook_deliveries") == "stored"
    for table in ("messages", "message_reactions", "conversation_events", "conversations"):
        assert await pool.fetchval(f"SELECT page_id FROM {table}") == page
    assert unescape(await pool.fetchval("SELECT mid FROM messages")) == f"m_{mid}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"hello",
        b"{",
        b"null",
        b"true",
        b"7",
        b'"text"',
        b"[]",
        b"{}",
        b"NaN",
        b"\x00",
        b"\xff\xfe\x00\x00",
        b"\xef\xbb\xbf{}",
        b'{"object":"page","entry":',
        b'{"entry":{}}',
        b'{"entry":null}',
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'["' + b'\\"' * 1_000_000,
        b'{"entry":' * 20_000,
        b"a=1&b=2",
    ],
    ids=lambda body: str(body[:20]),
)
async def test_what_is_no_delivery_is_journaled_as_a_dead_letter(
    client: httpx.AsyncClient, pool: Pool, body: bytes
) -> None:
    answers = await asyncio.gather(post(client, body), post(client, delivery_of(text_item())))
    assert [answer.status_code for answer in answers] == [200, 200]
    row = await pool.fetchrow("SELECT state, body, dead_letters FROM webhook_deliveries WHERE state <> 'stored'")
    assert row is not None
    assert (row["state"], row["body"]) == ("dead", body)
    assert row["dead_letters"][0]["path"] == ""
    assert row["dead_letters"][0]["reason"]
    assert await pool.fetchval("SELECT text FROM messages") == "text 1"


async def test_a_thousand_entries_are_all_stored(client: httpx.AsyncClient, pool: Pool) -> None:
    entries = [delivery_of(text_item(n))["entry"][0] for n in range(1_000)]
    assert (await post(client, {"object": "page", "entry": entries})).status_code == 200
    assert await pool.fetchval("SELECT count(*) FROM messages") == 1_000
    assert await pool.fetchval("SELECT items FROM webhook_deliveries WHERE state = 'stored'") == 1_000


async def test_of_a_thousand_entries_half_of_them_bad_the_good_half_is_stored(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    entries = [
        delivery_of(text_item(n, mid="m_good" if n == 0 else None if n % 2 else f"m_{n}"))["entry"][0]
        for n in range(1_000)
    ]
    assert (await post(client, {"object": "page", "entry": entries})).status_code == 200
    assert await pool.fetchval("SELECT count(*) FROM messages") == 500
    row = await pool.fetchrow("SELECT state, items, jsonb_array_length(dead_letters) AS dead FROM webhook_deliveries")
    assert tuple(row or ()) == ("partial", 1_000, 500)


@pytest.mark.parametrize("filler", [b"[],", b"7,", b"{},", b'{"a":[]},', b'"",'])
async def test_four_megabytes_of_next_to_nothing_are_journaled(
    client: httpx.AsyncClient, pool: Pool, filler: bytes
) -> None:
    head, tail = b'{"object":"page","entry":[{"id":"1","messaging":[', b"{}]}]}"
    body = head + filler * ((MAX_BODY - len(head) - len(tail)) // len(filler)) + tail
    assert (await post(client, body)).status_code == 200
    letters = await pool.fetchval("SELECT dead_letters FROM webhook_deliveries")
    assert letters[-1]["reason"] == "more than 5000 items: from here on it was not read"


@pytest.mark.parametrize("character", ["x", "\u0000", "\ud800", "é", "😀", '"', "\\"])
async def test_a_message_of_four_megabytes_is_stored(client: httpx.AsyncClient, pool: Pool, character: str) -> None:
    room = MAX_BODY - len(escaped(delivery_of(text_item(text=""))))
    text = character * (room // (len(json.dumps(character)) - 2))
    assert (await post(client, delivery_of(text_item(text=text)))).status_code == 200
    assert await pool.fetchval("SELECT state FROM webhook_deliveries") == "stored"
    assert await pool.fetchval("SELECT length(text) FROM messages") >= len(text)


async def test_ids_that_differ_in_refused_characters_alone_stay_apart(client: httpx.AsyncClient, pool: Pool) -> None:
    mids = ["m_\x00", "m_\x1a", "m_\ud800", "m_\x1a0000", "m_"]
    await post(client, delivery_of(*(text_item(n, mid=mid) for n, mid in enumerate(mids))))
    assert await pool.fetchval("SELECT count(*) FROM messages") == len(mids)


async def test_a_repeated_delivery_of_odd_values_changes_nothing(client: httpx.AsyncClient, pool: Pool) -> None:
    body = extra_of(b"[1e400, NaN, 99999999999999999999, 1.0, " + rb'"\u0000"' + b"]")
    await post(client, body)
    before = await pool.fetch("SELECT mid, original, changed_batch, updated_at FROM messages ORDER BY mid")
    await post(client, body)
    assert await pool.fetch("SELECT mid, original, changed_batch, updated_at FROM messages ORDER BY mid") == before
    assert before[0]["original"]["extra"] == ["1e400", "NaN", "99999999999999999999", 1.0, "\x1a0000"]


async def test_an_event_of_the_same_values_in_another_order_is_the_same(client: httpx.AsyncClient, pool: Pool) -> None:
    for keys in ("ab", "ba"):
        item = {"telepathy": dict.fromkeys(keys, 1), "timestamp": SENT_AT}
        await post(client, delivery_of(dict(reversed(item.items())) if keys == "ba" else item))
    assert await pool.fetchval("SELECT count(*) FROM conversation_events") == 1
