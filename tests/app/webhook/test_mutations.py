"""Bodies of Facebook's, changed by chance: never a 5xx, never a lost neighbour.

`./run chaos --bodies 10000` tries more of them.
"""

from __future__ import annotations

import asyncio
import json
import os
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.webhook.reader import read_body
from sql.rows import Message
from tests.app.webhook.support import delivery_of, post, text_item
from tests.app.webhook.test_reader import BODIES, DOOR
from tests.chaos.figures import note_figures

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from hypothesis.strategies import DrawFn

    from sql.pool import Pool

EXAMPLES = int(os.environ.get("MIRROR_EXAMPLES", "0"))
FEW = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

NEIGHBOURS = {f"m_unit_{n}": text_item(n, text="a neighbour in the same delivery") for n in (9_997, 9_998, 9_999)}
NESTED: Any = []
for _ in range(150):
    NESTED = [NESTED]
ODD_VALUES = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, 0, -1, 0.5, 1e308, float("inf"), float("nan"), 2**63, 10**400, "", "0", "true"),
            *("\x00", "\ud800", "\x1a", "m_", "x" * 3_000, "😀" * 700, [], {}, [None], [[]], {"": ""}, {"id": None}),
            *({"mid": "m_unit_9999"}, {"id": "0"}, NESTED),
        ]
    ),
    st.text(st.characters(exclude_categories=()), max_size=5),
    st.integers(),
)
# each of them in every place of every body
ODD_EVERYWHERE: tuple[Any, ...] = (None, {}, [[]], "\x00\ud800", -1, 10**400)
ODD_BYTES = st.sampled_from(
    [
        b"",
        b"\x00",
        b"\xff",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"\\u0000",
        b"\\ud800",
        b"1e400",
        b"NaN",
        b"\xc3",
    ]
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a body with every key in it."""
    for key in range(len(value)) if isinstance(value, list) else list(value):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


@st.composite
def changed_bodies(draw: DrawFn) -> Any:
    """A body with some of its values replaced, taken out, doubled or put elsewhere."""
    body = deepcopy(BODIES[draw(st.sampled_from(sorted(n for n, b in BODIES.items() if isinstance(b, dict))))])
    for _ in range(draw(st.integers(1, 4))):
        found = list(places(body))
        container, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(["replace", "take out", "double", "swap", "name"])):
            case "replace":
                container[key] = deepcopy(draw(ODD_VALUES))  # it may be changed in its turn
            case "take out":
                del container[key]
            case "double" if isinstance(container, list):
                container.insert(0, deepcopy(container[key]))
            case "name" if isinstance(container, dict):
                container[draw(st.text(max_size=3))] = container.pop(key)
            case _:
                other, place = found[draw(st.integers(0, len(found) - 1))]
                container[key] = deepcopy(other[place]) if place in range(len(other)) or place in other else None
        if not list(places(body)):
            break
    return body


@st.composite
def broken_bytes(draw: DrawFn) -> bytes:
    """A body with some of its bytes replaced."""
    raw = json.dumps(BODIES[draw(st.sampled_from(sorted(BODIES)))]).encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(raw)))
        raw = raw[:start] + draw(ODD_BYTES) + raw[start + draw(st.integers(0, 3)) :]
    return raw


def between_neighbours(entries: list[Any]) -> list[Any]:
    """Entries with others before and after them: of the same Page, of another one, and of one that stands by."""
    before, other, after = NEIGHBOURS.values()
    return [
        *delivery_of(before)["entry"],
        *entries,
        *delivery_of(other, page_id="104203300000002")["entry"],
        *delivery_of(after, page_id="104203300000003", via="standby")["entry"],
    ]


async def posted_beside_a_neighbour(client: httpx.AsyncClient, pool: Pool, raw: bytes) -> None:
    """Post a body and another one at once, most likely into one transaction; what must hold of any body."""
    await pool.execute("DELETE FROM messages")
    await pool.execute("DELETE FROM webhook_deliveries")
    answers = await asyncio.gather(post(client, raw), post(client, delivery_of(text_item(8_888))))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert await pool.fetchval("SELECT count(*) FROM messages WHERE mid = 'm_unit_8888' AND text = 'text 8888'") == 1
    row = await pool.fetchrow("SELECT state, dead_letters FROM webhook_deliveries WHERE body = $1", raw)
    assert row is not None
    assert all(letter["reason"] for letter in row["dead_letters"] or ())
    assert not any(letter["reason"].startswith("not understood") for letter in row["dead_letters"] or ())
    note_figures(bodies=1)


@given(body=changed_bodies())
@FEW
async def test_a_body_of_changed_values_is_answered_200_and_costs_no_neighbour(
    client: httpx.AsyncClient, pool: Pool, body: Any
) -> None:
    entries = body.get("entry")
    if isinstance(entries, list):
        body["entry"] = between_neighbours(entries)
    await posted_beside_a_neighbour(client, pool, json.dumps(body).encode())
    if isinstance(entries, list):
        found = await pool.fetch("SELECT mid FROM messages WHERE mid = ANY($1::text[])", list(NEIGHBOURS))
        assert {row["mid"] for row in found} == NEIGHBOURS.keys()


@given(raw=broken_bytes())
@FEW
async def test_a_body_of_broken_bytes_is_answered_200_and_costs_no_neighbour(
    client: httpx.AsyncClient, pool: Pool, raw: bytes
) -> None:
    await posted_beside_a_neighbour(client, pool, raw)


@pytest.mark.parametrize("name", [name for name, body in BODIES.items() if isinstance(body, dict)])
def test_whatever_stands_in_any_place_of_a_body_no_neighbour_is_lost(name: str) -> None:
    entries = BODIES[name].get("entry")
    for n in range(len(list(places(entries))) if isinstance(entries, list) else 0):
        for value in ODD_EVERYWHERE:
            changed = deepcopy(entries)
            container, key = list(places(changed))[n]
            container[key] = value
            reading = read_body(json.dumps({**BODIES[name], "entry": between_neighbours(changed)}).encode(), DOOR)
            mids = {row.mid for item in reading.items for row in item.rows if isinstance(row, Message)}
            assert mids >= NEIGHBOURS.keys()
            assert not any("not understood" in reason for _, reason in reading.dead_letters)


async def test_bodies_of_every_kind_at_once_cost_no_neighbour(client: httpx.AsyncClient, pool: Pool) -> None:
    entries = [entry for body in BODIES.values() if isinstance(body, dict) for entry in body.get("entry") or []]
    answer = await post(client, json.dumps({"object": "page", "entry": between_neighbours(entries)}).encode())
    assert answer.status_code == 200
    found = await pool.fetch("SELECT mid FROM messages WHERE mid = ANY($1::text[])", list(NEIGHBOURS))
    assert {row["mid"] for row in found} == NEIGHBOURS.keys()
