"""`/api/changes`, by asking and as a stream."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest

from app.api import changes
from app.api.place import from_text
from sql.changes import keep_changes, newest_place
from tests.app.service import AUTHORIZATION, assert_problem, deliver, served, text_delivery
from tests.horizon import LONGEST_SECONDS, all_is_told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.app.service import Service

PAGE, OTHER = "1001", "1002"


async def ask(service: Service, **query: Any) -> dict[str, Any]:
    """Ask for what can be told by now."""
    response = await service.http.get("/api/changes", params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def say(service: Service, mid: str, page_id: str = PAGE) -> None:
    response = await deliver(service.http, text_delivery(page_id, "p1", mid, f"it is {mid}"))
    assert response.status_code == 200


async def told(service: Service, **query: Any) -> dict[str, Any]:
    """Ask when all that was committed before can be told."""
    await all_is_told(service.state["pool"])
    return await ask(service, **query)


async def test_a_message_is_told_with_what_stands_there_and_only_once(service: Service) -> None:
    await say(service, "m_1")
    first = await told(service)
    by_kind = {change["kind"]: change for change in first["data"]}
    assert by_kind.keys() == {"message", "conversation"}
    assert by_kind["message"]["message"]["text"] == "it is m_1"
    assert (by_kind["message"]["psid"], by_kind["message"]["is_gone"]) == ("p1", False)
    assert by_kind["conversation"]["conversation"]["last_message_mid"] == "m_1"
    assert (await told(service, after=first["next"]))["data"] == []


async def test_answers_of_any_size_together_tell_all_of_it(service: Service) -> None:
    for n in range(4):
        await say(service, f"m_{n}", (PAGE, OTHER)[n % 2])
    after = ""
    found: list[dict[str, Any]] = []
    while True:
        answer = await told(service, limit=1, **({"after": after} if after else {}))
        if not answer["data"]:
            break
        after, found = answer["next"], found + answer["data"]
    assert found == (await told(service))["data"]
    assert {c["key"] for c in found if c["kind"] == "message"} == {f"m_{n}" for n in range(4)}
    of_one = (await told(service, page_id=OTHER))["data"]
    assert of_one == [change for change in found if change["page_id"] == OTHER]


async def test_now_tells_nothing_of_before(service: Service) -> None:
    await say(service, "m_1")
    start = await told(service, after="now", wait_seconds=60)
    assert start["data"] == []
    await say(service, "m_2")
    after = (await told(service, after=start["next"]))["data"]
    assert [c["key"] for c in after if c["kind"] == "message"] == ["m_2"]


async def test_who_waits_is_told_as_soon_as_there_is_something(service: Service) -> None:
    start = await told(service, after="now")
    waiting = asyncio.create_task(ask(service, after=start["next"], wait_seconds=300))
    await say(service, "m_1")
    async with asyncio.timeout(LONGEST_SECONDS):
        assert (await waiting)["data"]


async def test_who_waits_is_answered_when_the_service_ends(service: Service) -> None:
    start = await told(service, after="now")
    waiting = asyncio.create_task(ask(service, after=start["next"], wait_seconds=300))
    service.state["ending"].set()
    async with asyncio.timeout(LONGEST_SECONDS):
        assert (await waiting)["data"] == []


async def test_a_place_that_was_not_given_is_refused(service: Service) -> None:
    place = (await told(service))["next"]
    of_page = (await told(service, page_id=PAGE))["next"]
    flipped = place[:-1] + ("A" if place[-1] != "A" else "B")
    for forged in ("x", "0", "NOW", place[:-2], place + "A", flipped, of_page, "é"):
        assert_problem(await service.http.get("/api/changes", params={"after": forged}), 422, "after")
        assert_problem(await service.http.get("/api/changes/stream", params={"after": forged}), 422, "after")
    response = await service.http.get("/api/changes/stream", headers={"last-event-id": flipped})
    assert_problem(response, 422, "Last-Event-ID")


@pytest.mark.parametrize(
    "happens",
    [
        "UPDATE changes_feed SET identity = 'another'",  # as after a restore
        "UPDATE changes_feed SET dropped_xid = '99999999999', dropped_seq = 1, written_by = pg_current_xact_id()",
    ],
    ids=["restored", "too old"],
)
async def test_a_place_of_which_nothing_is_left_is_gone(service: Service, happens: str) -> None:
    place = (await told(service))["next"]
    await service.state["pool"].execute(happens)
    for path in ("/api/changes", "/api/changes/stream"):
        assert_problem(await service.http.get(path, params={"after": place}), 410, "after")


async def next_event(lines: AsyncIterator[str]) -> tuple[str, str, dict[str, Any]]:
    """Read up to the end of an event that says something: its name, id and data."""
    fields: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            return fields["event"], fields["id"], orjson.loads(fields["data"])
    raise EOFError


async def drop_what_was_told(service: Service) -> None:
    """Let retention take away every change there is by now."""
    later = datetime.now(UTC).date() + timedelta(days=20)
    async with service.state["pool"].acquire() as connection, asyncio.timeout(LONGEST_SECONDS):
        while not await keep_changes(connection, today=later, retention_days=14):
            pass  # it gives way to who reads


async def test_whose_next_change_retention_has_dropped_is_told_to_start_over_and_can(service: Service) -> None:
    before = (await told(service))["next"]
    await say(service, "m_1")
    after = (await told(service))["next"]
    await drop_what_was_told(service)
    for path in ("/api/changes", "/api/changes/stream"):
        by_query = await service.http.get(path, params={"after": before})
        assert "CHANGES_RETENTION_DAYS" in assert_problem(by_query, 410, "after")
        assert "Start over: take `after=now`" in by_query.json()["detail"]
    by_header = await service.http.get("/api/changes/stream", headers={"last-event-id": before})
    assert "Start over" in assert_problem(by_header, 410, "Last-Event-ID")
    start = await told(service, after="now")
    await say(service, "m_2")
    for place in (after, start["next"]):  # who had read it all before misses nothing
        found = (await told(service, after=place))["data"]
        assert [c["key"] for c in found if c["kind"] == "message"] == ["m_2"]


async def test_who_waits_for_what_retention_drops_is_told_so_and_a_stream_ends(service: Service) -> None:
    place = (await told(service))["next"]
    query = {"after": place}
    async with (
        served(service.app, lifespan="off") as address,
        httpx.AsyncClient(base_url=address, headers=AUTHORIZATION, timeout=LONGEST_SECONDS) as http,
        asyncio.timeout(LONGEST_SECONDS),
    ):
        async with service.state["pool"].acquire() as older:
            whole = older.transaction()
            await whole.start()
            await older.execute("SELECT pg_current_xact_id()")
            waiting = asyncio.create_task(http.get("/api/changes", params={**query, "wait_seconds": 300}))
            async with http.stream("GET", "/api/changes/stream", params=query) as response:
                assert response.status_code == 200
                await say(service, "m_1")  # told to nobody, while the older one goes on
                await drop_what_was_told(service)
                await whole.rollback()
                await say(service, "m_2")
                with pytest.raises(EOFError):
                    await next_event(response.aiter_lines())
        assert_problem(await waiting, 410, "after")
        assert_problem(await http.get("/api/changes/stream", params=query), 410, "after")


async def test_a_stream_tells_goes_on_by_the_last_id_and_ends_with_the_service(service: Service) -> None:
    await say(service, "m_1")
    path = "/api/changes/stream"
    async with (
        served(service.app, lifespan="off") as address,
        httpx.AsyncClient(base_url=address, headers=AUTHORIZATION, timeout=60) as http,
    ):
        async with http.stream("GET", path) as response:
            lines = response.aiter_lines()
            one, two = await next_event(lines), await next_event(lines)
        assert {one[0], two[0]} == {"message", "conversation"}
        async with http.stream("GET", path, headers={"last-event-id": one[1]}) as response:
            lines = response.aiter_lines()
            assert (await next_event(lines))[2] == two[2]
            await say(service, "m_2")
            keys = {(await next_event(lines))[2]["key"] for _ in range(2)}
            assert keys == {"p1", "m_2"}
            service.state["ending"].set()
            with pytest.raises(EOFError):
                await next_event(lines)


async def test_a_quiet_stream_beats(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "HEARTBEAT_SECONDS", 0.05)
    async with (
        served(service.app, lifespan="off") as address,
        httpx.AsyncClient(base_url=address, headers=AUTHORIZATION, timeout=60) as http,
        http.stream("GET", "/api/changes/stream") as response,
    ):
        beats = 0
        async for line in response.aiter_lines():
            beats += line.startswith(":")
            if beats == 2:
                break
        assert beats == 2
        service.state["ending"].set()


async def test_who_has_a_revoked_key_is_told_nothing_more(service: Service) -> None:
    made = (await service.http.post("/api/keys", json={"name": "a reader", "role": "read"})).json()
    async with (
        served(service.app, lifespan="off") as address,
        httpx.AsyncClient(base_url=address, headers={"authorization": f"Bearer {made['key']}"}, timeout=60) as http,
        http.stream("GET", "/api/changes/stream") as response,
    ):
        lines = response.aiter_lines()
        await say(service, "m_1")
        assert {(await next_event(lines))[2]["key"] for _ in range(2)} == {"m_1", "p1"}
        assert (await service.http.delete(f"/api/keys/{made['id']}")).status_code == 204
        await say(service, "m_2")
        with pytest.raises(EOFError):
            await next_event(lines)


async def test_who_reads_one_page_goes_on_beyond_what_is_of_others(service: Service) -> None:
    start = await told(service, page_id=PAGE)
    await say(service, "m_1", OTHER)
    answer = await told(service, page_id=PAGE, after=start["next"])
    assert answer["data"] == []
    [before, after] = [from_text(place, PAGE, "after")[1] for place in (start["next"], answer["next"])]
    async with service.state["pool"].acquire() as connection:
        assert before < await newest_place(connection) < after


async def test_more_who_wait_than_there_are_connections_hold_up_nobody(service: Service) -> None:
    start = await told(service, after="now")
    waiting = [asyncio.create_task(ask(service, after=start["next"], wait_seconds=300)) for _ in range(60)]
    await say(service, "m_1")
    async with asyncio.timeout(LONGEST_SECONDS):
        answers = await asyncio.gather(*waiting)
    assert all(answer["data"] for answer in answers)


async def test_a_transaction_that_goes_on_shows_in_the_metrics(service: Service) -> None:
    async with service.state["pool"].acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")
        await say(service, "m_1")
        assert (await ask(service))["data"] == []
        text = (await service.http.get("/metrics")).text
        [line] = [line for line in text.splitlines() if line.startswith("mirror_changes_horizon_lag_seconds ")]
        assert float(line.split()[1]) > 0
    assert (await told(service))["data"]
