"""A person who was erased is gone from rows and raw bodies, and stays away at every door."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from app import erasing, searching
from app.erasing import JournalEraser, begin_erasure
from app.webhook.redaction import redacted
from sql.erasures import erase as erase_rows
from sql.spool import Spool, Spooled
from tests.app.graph import thread
from tests.app.service import add_page, deliver, running, settings_for, text_delivery

if TYPE_CHECKING:
    from pathlib import Path

    from app.erasing import Done
    from tests.app.graph import FakeGraph
    from tests.app.service import Service

PAGE, PERSON, OTHER = "1001", "7001", "7002"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
WORD = "a private word"


def item(psid: str, mid: str, text: str, at: datetime = NOON) -> dict[str, Any]:
    message = {"mid": mid, "text": text}
    sender, recipient = {"id": psid}, {"id": PAGE}
    return {"sender": sender, "recipient": recipient, "timestamp": int(at.timestamp() * 1000), "message": message}


def delivery(*items: Any) -> bytes:
    return json.dumps({"object": "page", "entry": [{"id": PAGE, "time": 1, "messaging": list(items)}]}).encode()


async def erase(service: Service, psid: str = PERSON, before: datetime = LATER) -> Done:
    return await JournalEraser(service.state["pool"]).erase(PAGE, psid, before=before, requested_by="cli")


async def texts(service: Service) -> list[str]:
    async with service.state["pool"].acquire() as connection:
        rows = await connection.fetch("SELECT text FROM messages WHERE sent_at IS NOT NULL ORDER BY mid")
    return [row["text"] for row in rows]


async def bodies(service: Service) -> list[bytes]:
    async with service.state["pool"].acquire() as connection:
        rows = await connection.fetch("SELECT body FROM webhook_deliveries ORDER BY received_at, id")
    return [row["body"] for row in rows]


async def states(service: Service) -> list[tuple[str, list[str]]]:
    async with service.state["pool"].acquire() as connection:
        rows = await connection.fetch("SELECT state, dead_letters FROM webhook_deliveries ORDER BY received_at, id")
    return [(row["state"], [letter["path"] for letter in row["dead_letters"] or []]) for row in rows]


async def test_a_body_with_several_persons_keeps_the_others_items_to_the_byte(service: Service) -> None:
    body = delivery(item(OTHER, "m_1", "theirs"), item(PERSON, "m_2", WORD), item(OTHER, "m_3", "theirs too"))
    await deliver(service.http, body)
    done = await erase(service)
    assert (done.erased.messages, done.deliveries) == (1, 1)
    assert await bodies(service) == [redacted(body, {"entry[0].messaging[1]"})]
    assert await texts(service) == ["theirs", "theirs too"]


async def test_a_message_is_found_in_every_delivery_that_told_it_and_not_only_in_the_one_that_its_row_keeps(
    service: Service,
) -> None:
    edit = {"mid": "m_1", "text": WORD, "num_edit": 1}
    told = [
        delivery(item(PERSON, "m_1", WORD)),
        delivery(item(PERSON, "m_1", WORD), item(OTHER, "m_9", "theirs")),
        delivery({"timestamp": 1_772_366_400_000, "message_edit": edit}),  # which names nobody
        delivery({**item(PERSON, "m_1", WORD), "message": {"mid": "m_1", "is_deleted": True}}),
        delivery({"sender": {"id": PERSON}, "recipient": {"id": PAGE}, "read": {"watermark": 1_772_366_400_000}}),
        delivery({"sender": {"id": PERSON}, "recipient": {"id": PAGE}, "timestamp": 1_772_366_400_000, "optin": {}}),
    ]
    for body in told:
        await deliver(service.http, body)
    assert (await erase(service)).deliveries >= len(told)
    kept = b"".join(await bodies(service))
    assert PERSON.encode() not in kept
    assert WORD.encode() not in kept
    assert b"theirs" in kept


async def test_what_could_not_be_read_is_taken_out_of_the_journal_too(service: Service) -> None:
    unreadable = {"sender": {"id": PERSON}, "recipient": {"id": PAGE}, "message": {"mid": [], "text": WORD}}
    await deliver(service.http, delivery(item(OTHER, "m_1", "theirs"), unreadable))
    await deliver(service.http, b"{not json, but from " + PERSON.encode())
    await deliver(service.http, b"{not json, from somebody else")
    assert [state for state, _ in await states(service)] == ["partial", "dead", "dead"]
    await erase(service, before=datetime.now(UTC))
    assert await states(service) == [("stored", []), ("stored", []), ("dead", [""])]
    kept = await bodies(service)
    assert PERSON.encode() not in b"".join(kept)
    assert b"theirs" in kept[0]
    assert kept[2] == b"{not json, from somebody else"


async def test_at_the_webhooks_door_it_is_acknowledged_and_neither_stored_nor_journaled(service: Service) -> None:
    await erase(service)
    body = delivery(item(PERSON, "m_1", WORD), item(OTHER, "m_2", "theirs"), item(PERSON, "m_3", "new", LATER))
    assert (await deliver(service.http, body)).status_code == 200
    assert await texts(service) == ["theirs", "new"]
    assert await bodies(service) == [redacted(body, {"entry[0].messaging[0]"})]


async def test_a_receipt_and_an_event_of_before_are_refused_and_later_ones_kept(service: Service) -> None:
    await erase(service)
    for at in (NOON, LATER):
        ms = int(at.timestamp() * 1000)
        parties = {"sender": {"id": PERSON}, "recipient": {"id": PAGE}}
        await deliver(service.http, delivery({**parties, "timestamp": ms, "optin": {"ref": at.isoformat()}}))
        await deliver(service.http, delivery({**parties, "timestamp": ms, "read": {"watermark": ms}}))
    async with service.state["pool"].acquire() as connection:
        assert await connection.fetchval("SELECT array_agg(occurred_at) FROM conversation_events") == [LATER]
        assert await connection.fetchval("SELECT array_agg(read_watermark) FROM conversations") == [LATER]
    assert [PERSON.encode() in body for body in await bodies(service)] == [False, False, True, True]


async def test_what_waited_in_the_spool_is_refused_when_it_comes_out(
    database: str, graph: FakeGraph, tmp_path: Path
) -> None:
    assert graph
    body = text_delivery(PAGE, PERSON, "m_1", WORD, NOON)
    async with Spool(tmp_path, max_bytes=2**20) as spool:
        await spool.put(Spooled(uuid4(), datetime.now(UTC), body))
    async with running(settings_for(database, reconciler_enabled=False)) as service:
        await erase(service)
    async with running(settings_for(database, spool_dir=tmp_path)) as service:
        assert await texts(service) == []
        assert await bodies(service) == [redacted(body, {"entry[0].messaging[0]"})]


async def test_a_replay_brings_nothing_back(service: Service) -> None:
    body = delivery(item(PERSON, "m_1", WORD), item(OTHER, "m_2", "theirs"))
    await deliver(service.http, body)
    async with service.state["pool"].acquire() as connection:
        await begin_erasure(
            service.state["pool"], PAGE, PERSON, before=LATER, requested_by="cli", now=datetime.now(UTC)
        )
        await connection.execute("UPDATE webhook_deliveries SET body = $1", body)  # as if nobody had seen to it yet
    response = await service.http.post("/api/deliveries/replay", json={"since": "2026-01-01"})
    assert response.json() == {"deliveries": 1, "still_dead": 0, "inserted": 0, "updated": 0, "next": None}
    assert await texts(service) == ["theirs"]
    assert await bodies(service) == [redacted(body, {"entry[0].messaging[0]"})]


async def test_a_sync_brings_back_only_what_was_sent_later(syncing: Service, graph: FakeGraph) -> None:
    await erase(syncing)
    shown = thread(PAGE, PERSON, ("m_2", "new", LATER), ("m_1", WORD, NOON))
    await add_page(syncing, graph, PAGE, shown)
    for mode in ("full", "audit"):
        run = (
            await syncing.http.post("/api/conversations/sync", json={"page_id": PAGE, "mode": mode, "wait_seconds": 60})
        ).json()
        assert run["state"] == "succeeded", run
        assert await texts(syncing) == ["new"]
    assert (run["inserted"], run["repaired"], run["audit"]["messages_restored"]) == (0, 0, 0)


async def test_a_group_that_postgres_refuses_in_part_is_still_rid_of_the_erased(service: Service) -> None:
    await erase(service)
    async with service.state["pool"].acquire() as connection:
        await connection.execute("ALTER TABLE messages ADD CHECK (mid <> 'm_bad')")
    body = delivery(item(PERSON, "m_1", WORD), item(OTHER, "m_bad", "refused"), item(OTHER, "m_3", "theirs"))
    assert (await deliver(service.http, body)).status_code == 200
    assert await texts(service) == ["theirs"]
    assert await bodies(service) == [redacted(body, {"entry[0].messaging[0]"})]
    assert await states(service) == [("partial", ["entry[0].messaging[1]"])]


async def test_an_erasure_that_fails_half_way_leaves_the_journal_to_the_next(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = service.state["pool"]
    await deliver(service.http, delivery(item(PERSON, "m_1", WORD)))

    def dies(*_args: object) -> bytes:
        raise OSError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(erasing, "redacted", dies)
        with pytest.raises(OSError, match="gone"):
            await erase(service)
    assert WORD.encode() in b"".join(await bodies(service))
    assert await texts(service) == []
    assert await JournalEraser(pool).run_once() == {"erasures": 1, "deliveries": 1}
    assert WORD.encode() not in b"".join(await bodies(service))
    assert await JournalEraser(pool).run_once() == {"erasures": 0, "deliveries": 0}


async def test_several_erasures_at_once_in_the_same_bodies_lose_none(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "SEARCHED_AT_ONCE", 2)
    monkeypatch.setattr(searching, "REDACTED_AT_ONCE", 2)
    monkeypatch.setattr(erasing, "REDACTED_AT_ONCE", 2)
    persons = [f"70{n:02}" for n in range(10, 16)]
    for n in range(5):
        await deliver(service.http, delivery(*(item(psid, f"m_{n}_{psid}", WORD) for psid in persons)))
    done = await asyncio.gather(*(erase(service, psid) for psid in persons))
    assert sum(one.deliveries for one in done) >= 5  # each takes out whatever was erased, so some find nothing left
    assert WORD.encode() not in b"".join(await bodies(service))


async def test_an_erasure_that_writers_were_in_the_way_of_is_done_once_more(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver(service.http, delivery(item(PERSON, "m_1", WORD)))
    errors: list[Exception] = [asyncpg.DeadlockDetectedError("in a circle"), asyncpg.LockNotAvailableError("busy")]

    async def hindered(*args: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await erase_rows(*args, **options)

    monkeypatch.setattr(erasing, "erase", hindered)
    assert (await erase(service)).erased.messages == 1
    assert await texts(service) == []


async def test_no_log_line_names_who_was_erased(service: Service) -> None:
    with capture_logs() as lines:
        await deliver(service.http, delivery(item(PERSON, "m_1", WORD)))
        await erase(service)
        await deliver(service.http, delivery(item(PERSON, "m_1", WORD)))
    assert {line["event"] for line in lines} >= {"person_erased", "erased_items_refused"}
    assert not [line for line in lines if PERSON in str(line) or WORD in str(line)]
