from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sql import deliveries
from tests.app.service import assert_problem, deliver, text_delivery

if TYPE_CHECKING:
    import pytest

    from tests.app.service import Service

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGE = "1001"


async def journal(service: Service, **params: str | int) -> list[dict[str, Any]]:
    response = await service.http.get("/api/deliveries", params=params)
    assert response.status_code == 200, response.text
    rows: list[dict[str, Any]] = response.json()["data"]
    return rows


async def replay(service: Service, **body: Any) -> dict[str, Any]:
    response = await service.http.post("/api/deliveries/replay", json=body)
    assert response.status_code == 200, response.text
    done: dict[str, Any] = response.json()
    return done


async def forget(service: Service) -> None:
    """Leave the journal as a version would that could read none of it."""
    async with service.state["pool"].acquire() as connection:
        await connection.execute("TRUNCATE conversations, messages, message_reactions, conversation_events")
        await connection.execute(
            """
            UPDATE webhook_deliveries SET state = 'dead', dead_letters = '[{"path": "entry[0]", "reason": "too new"}]'
            """
        )


async def messages(service: Service) -> list[str]:
    async with service.state["pool"].acquire() as connection:
        return [row["mid"] for row in await connection.fetch("SELECT mid FROM messages ORDER BY mid")]


async def test_every_delivery_is_listed_newest_first_without_its_body(service: Service) -> None:
    for n in range(3):
        await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "a private word", NOON))
    response = await service.http.get("/api/deliveries")
    assert "a private word" not in response.text
    rows = response.json()["data"]
    assert [row["received_at"] for row in rows] == sorted((row["received_at"] for row in rows), reverse=True)
    assert rows[0].keys() == {"id", "received_at", "state", "items", "dead_letters", "replayed_at", "bytes"}
    assert (rows[0]["state"], rows[0]["items"], rows[0]["dead_letters"]) == ("stored", 1, None)
    assert response.json()["next"] is None


async def test_dead_letters_are_listed_with_where_and_why(service: Service) -> None:
    await deliver(service.http, text_delivery(PAGE, "p", "m_1", "hello", NOON))
    assert (await deliver(service.http, b"{not json")).status_code == 200
    assert (await deliver(service.http, b'{"object": "page", "entry": [5]}')).status_code == 200
    rows = await journal(service, state="dead")
    assert [row["state"] for row in rows] == ["dead", "dead"]
    assert rows[0]["dead_letters"][0].keys() == {"path", "reason"}
    assert rows[0]["dead_letters"][0]["path"] == "entry[0]"
    assert len(await journal(service)) == 3
    assert_problem(await service.http.get("/api/deliveries", params={"state": "lost"}), 422, "state")


async def test_the_journal_pages_by_a_cursor_and_by_time(service: Service) -> None:
    for n in range(5):
        await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "hello", NOON))
    all_ids = [row["id"] for row in await journal(service)]
    found: list[str] = []
    page = (await service.http.get("/api/deliveries", params={"limit": 2})).json()
    while True:
        found += [row["id"] for row in page["data"]]
        if page["next"] is None:
            break
        await deliver(service.http, text_delivery(PAGE, "p", "m_0", "again", NOON))
        page = (await service.http.get("/api/deliveries", params={"limit": 2, "cursor": page["next"]})).json()
    assert found == all_ids
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert await journal(service, since=tomorrow) == []
    assert len(await journal(service, until=tomorrow)) == 7
    for field in ("since", "until"):
        assert_problem(await service.http.get("/api/deliveries", params={field: "soon"}), 422, field)


async def test_a_later_version_replays_dead_letters_and_a_second_replay_changes_nothing(service: Service) -> None:
    for n in range(3):
        await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "hello", NOON))
    await forget(service)
    await deliver(service.http, b"{not json")
    done = await replay(service, state="dead")
    assert (done["deliveries"], done["still_dead"], done["updated"]) == (4, 1, 0)
    assert done["inserted"] >= 3
    assert await messages(service) == ["m_0", "m_1", "m_2"]
    (dead,) = await journal(service, state="dead")
    assert dead["replayed_at"] is not None
    nothing_new = {"still_dead": 1, "inserted": 0, "updated": 0, "next": None}
    assert await replay(service, state="dead") == {"deliveries": 1, **nothing_new}
    assert await replay(service, since="2026-01-01") == {"deliveries": 4, **nothing_new}


async def test_deliveries_are_replayed_by_id_or_by_time(service: Service) -> None:
    for n in range(3):
        await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "hello", NOON))
    await forget(service)
    ids = [row["id"] for row in await journal(service)]
    assert (await replay(service, ids=[ids[0], str(uuid4())]))["deliveries"] == 1
    assert await messages(service) == ["m_2"]
    assert (await replay(service, until="2026-01-01"))["deliveries"] == 0
    assert (await replay(service, since="2026-01-01", state="dead"))["deliveries"] == 2
    assert await messages(service) == ["m_0", "m_1", "m_2"]


async def test_more_replays_at_once_than_connections_all_end(service: Service) -> None:
    for n in range(3):
        await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "hello", NOON))
    await forget(service)
    many = service.state["pool"].get_max_size() * 2
    done = await asyncio.gather(*(replay(service, since="2026-01-01") for _ in range(many)))
    assert {row["deliveries"] for row in done} == {3}
    assert await messages(service) == ["m_0", "m_1", "m_2"]


async def test_a_long_replay_answers_in_time_and_goes_on_where_it_stopped(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.replay.DELIVERIES_AT_ONCE", 2)
    for n in range(5):
        await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "hello", NOON))
    await forget(service)
    asked: dict[str, Any] = {"since": "2026-01-01", "wait_seconds": 0}
    for number, mids in ((2, ["m_0", "m_1"]), (2, ["m_0", "m_1", "m_2", "m_3"]), (1, [f"m_{n}" for n in range(5)])):
        done = await replay(service, **asked)
        assert (done["deliveries"], await messages(service)) == (number, mids)
        asked["cursor"] = done["next"]
    assert done["next"] is None
    assert_problem(
        await service.http.post("/api/deliveries/replay", json={"state": "dead", "cursor": "x"}), 422, "cursor"
    )
    assert (await replay(service, since="2026-01-01"))["deliveries"] == 5


async def test_a_cursor_of_the_journal_is_good_for_the_question_it_was_given_for_only(service: Service) -> None:
    for n in range(3):
        await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "hello", NOON))
    asked: dict[str, Any]
    for asked in ({}, {"since": "2026-01-01"}, {"page_id": PAGE}):
        page = (await service.http.get("/api/deliveries", params={**asked, "limit": 2})).json()
        assert len(await journal(service, **asked, cursor=page["next"])) == 1
        for other in ({"since": "2026-01-02"}, {"until": "2999-01-01"}, {"state": "dead"}, {"page_id": "2002"}):
            response = await service.http.get("/api/deliveries", params={**asked, **other, "cursor": page["next"]})
            assert_problem(response, 422, "cursor")
        response = await service.http.post("/api/deliveries/replay", json={"state": "dead", "cursor": page["next"]})
        assert_problem(response, 422, "cursor")


async def test_a_cursor_of_a_replay_is_good_for_the_same_replay_only(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.replay.DELIVERIES_AT_ONCE", 1)
    for n in range(3):
        await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "hello", NOON))
    ids = [row["id"] for row in await journal(service)]
    cursor = (await replay(service, since="2026-01-01", wait_seconds=0))["next"]
    for other in ({"since": "2026-01-02"}, {"state": "dead"}, {"ids": ids}, {"since": "2026-01-01", "state": "dead"}):
        response = await service.http.post("/api/deliveries/replay", json={**other, "cursor": cursor})
        assert_problem(response, 422, "cursor")
    assert_problem(await service.http.get("/api/deliveries", params={"cursor": cursor}), 422, "cursor")
    assert (await replay(service, since="2026-01-01", cursor=cursor))["deliveries"] == 2


async def test_a_replay_of_nothing_in_particular_is_a_422_problem(service: Service) -> None:
    assert_problem(await service.http.post("/api/deliveries/replay", json={}), 422)
    assert_problem(await service.http.post("/api/deliveries/replay"), 422)
    wrong: list[tuple[str, Any]] = [
        ("ids", []),
        ("ids", ["x"]),
        ("ids", "all"),
        ("ids", [str(uuid4())] * 1001),
        ("state", "stored"),
        ("since", "soon"),
        ("until", 5),
        ("wait_seconds", -1),
        ("wait_seconds", 121),
    ]
    for field, value in wrong:
        response = await service.http.post("/api/deliveries/replay", json={field: value})
        assert response.status_code == 422
        assert response.json()["field"].startswith(field)


async def test_one_delivery_is_shown_with_its_raw_body_to_the_byte(service: Service) -> None:
    body = text_delivery(PAGE, "p", "m_1", "a private w\u00f6rd", NOON).replace(b'"object"', b' "object" ')
    await deliver(service.http, body)
    await deliver(service.http, b'{"\xff\x00')
    odd, told = await journal(service)
    shown = (await service.http.get(f"/api/deliveries/{told['id']}")).json()
    assert shown == {**told, "encoding": "utf-8", "body": body.decode()}
    shown = (await service.http.get(f"/api/deliveries/{odd['id']}")).json()
    assert shown["encoding"] == "base64"
    assert base64.b64decode(shown["body"]) == b'{"\xff\x00'
    assert_problem(await service.http.get(f"/api/deliveries/{uuid4()}"), 404, "delivery_id")
    assert_problem(await service.http.get("/api/deliveries/1"), 404)


async def test_a_dead_letter_is_looked_at_and_replayed_alone(service: Service) -> None:
    for n in range(2):
        await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "hello", NOON))
    await forget(service)
    dead = (await journal(service, state="dead"))[0]
    assert dead["dead_letters"] == [{"path": "entry[0]", "reason": "too new"}]
    assert "m_1" in (await service.http.get(f"/api/deliveries/{dead['id']}")).json()["body"]
    assert (await replay(service, ids=[dead["id"]]))["still_dead"] == 0
    assert await messages(service) == ["m_1"]


async def test_the_journal_is_searched_for_a_page_step_by_step(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "SEARCHED_AT_ONCE", 4)
    for n in range(10):
        await deliver(service.http, text_delivery(PAGE if n in {0, 7, 8, 9} else "2002", "p", f"m_{n}", "hello", NOON))
    all_ids = [row["id"] for row in await journal(service)]
    found: list[str] = []
    steps, params = 0, {"page_id": PAGE, "limit": "2"}
    while True:
        page = (await service.http.get("/api/deliveries", params=params)).json()
        found += [row["id"] for row in page["data"]]
        steps += 1
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert found == [all_ids[n] for n in (0, 1, 2, 9)]
    assert steps == 4
    assert await journal(service, page_id=PAGE, state="dead") == []
