"""What Graph never shows, and only webhooks tell: it must be the join of what was delivered."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from app.demo.comparison import at
from app.webhook.projection import Door
from app.webhook.reader import read_body
from simulator.body import envelope, escaped
from sql.rows import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import asyncpg

    from simulator import Item
    from simulator.truth import MessageTruth

ANY_DOOR = Door(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC).date(), UUID(int=0))
LIVE = {"message", "echo", "postback"}
EXTRA = ("app_id", "metadata", "quick_reply", "referral")


def compare_told(true: MessageTruth, row: asyncpg.Record | None, items: Iterable[Item]) -> Iterator[str]:
    """Yield what is wrong in a message's row about what webhooks told of it; `items` are those of this message."""
    told: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        told[item.kind].append(item)
    came_live = bool(told.keys() & LIVE)
    if row is None:
        if came_live or told["unsend"]:
            yield f"{true.mid} was told and has no row"
        return
    if (row["webhook_seen_at"] is not None) != came_live:
        yield f"{true.mid} was seen by webhook at {row['webhook_seen_at']}, {sorted(told)} were delivered"
    if told["unsend"]:
        if row["deleted_at"] != at(true.deleted_at_ms or 0):
            yield f"{true.mid} was unsent at {row['deleted_at']}"
        return
    yield from _compare_original(true, row, came_live=came_live, is_echo=bool(told["echo"]))
    yield from _compare_words(true, row, [item for kind in LIVE for item in told[kind]])
    edits = {n: (abs(value[0]), value[1]) for n, value in (row["edits"] or {}).items()}
    expected = {
        str(item.value["message_edit"]["num_edit"]): (item.at_ms, item.value["message_edit"]["text"])
        for item in told["message_edit"]
    }
    if edits != expected:
        yield f"{true.mid} has the edits {edits}, told were {expected}"


def _compare_original(true: MessageTruth, row: asyncpg.Record, *, came_live: bool, is_echo: bool) -> Iterator[str]:
    original: dict[str, Any] = row["original"] or {}
    if not came_live or true.is_deleted:  # an unsend that was withheld: nobody remembers what was told before
        return
    for name in EXTRA:
        expected = (true.extra.get("postback", true.extra) if name == "referral" else true.extra).get(name)
        if name == "app_id" and expected is not None:
            expected = str(expected)
        if original.get(name) != expected:
            yield f"{true.mid} has {name} {original.get(name)!r}, not {expected!r}"
    if is_echo and row["app_id"] != original.get("app_id"):
        yield f"{true.mid} was sent by {row['app_id']}"
    if original.get("reply_to") != true.reply_to:
        yield f"{true.mid} replies to {original.get('reply_to')}, not {true.reply_to}"


def _compare_words(true: MessageTruth, row: asyncpg.Record, live: Iterable[Item]) -> Iterator[str]:
    """What it said before it was edited, and what the button was for whose tap it was."""
    original: dict[str, Any] = row["original"] or {}
    for item in live if not true.is_deleted else ():
        body = item.value.get("message") or {"text": item.value["postback"]["title"]}
        if original.get("text") != body.get("text"):
            yield f"{true.mid} first said {original.get('text')!r}, not {body.get('text')!r}"
        payload = item.value.get("postback", {}).get("payload")
        if payload is not None and original.get("postback", {}).get("payload") != payload:
            yield f"{true.mid} was the tap of {original.get('postback')}, not of {payload}"


def compare_events(told: Iterable[Item], rows: Iterable[asyncpg.Record]) -> Iterator[str]:
    """Yield what is wrong in a mirror's events: each that was told is there, as it was told, and no other."""
    stored = {(row["page_id"], row["event_key"]): row for row in rows}
    # two that differ only in how they came are one: `messaging` comes before `standby`
    events = sorted(_events_of(told), key=lambda event: event.via, reverse=True)
    expected = {(event.page_id, event.event_key): event for event in events}
    yield from (f"event {key} is missing" for key in expected.keys() - stored.keys())
    yield from (f"event {key} was never told" for key in stored.keys() - expected.keys())
    for key in expected.keys() & stored.keys():
        seen, wanted = _event(dict(stored[key])), _event(expected[key]._asdict())
        if seen != wanted:
            yield f"event {key} is {seen}, not {wanted}"


def _event(event: Mapping[str, Any]) -> tuple[Any, ...]:
    """What readers see of an event. An estimated time is that of the try that arrived first."""
    payload = event["payload"]
    payload = json.loads(payload) if isinstance(payload, str) else payload
    is_estimated = event["occurred_at_is_estimated"]
    occurred_at = None if is_estimated else event["occurred_at"]
    return event["psid"], event["kind"], event["via"], event["mid"], is_estimated, occurred_at, payload


def _events_of(items: Iterable[Item]) -> list[Event]:
    rows = []
    for item in items:
        body = escaped(envelope([item], item.at_ms))
        rows += [row for read in read_body(body, ANY_DOOR).items for row in read.rows if isinstance(row, Event)]
    return rows
