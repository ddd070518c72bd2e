from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.app.service import assert_problem, columns, deliver, text_delivery

if TYPE_CHECKING:
    from tests.app.service import Service

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGE, OTHER_PAGE = "1001", "1002"


async def write(
    service: Service, psid: str, mid: str, at: datetime, *, page_id: str = PAGE, text: str = "hello"
) -> None:
    response = await deliver(service.http, text_delivery(page_id, psid, mid, text, at))
    assert response.status_code == 200


async def ask(service: Service, path: str, **params: str | int) -> Any:
    response = await service.http.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def walk(service: Service, path: str, *, key: str, limit: int = 2, **params: str | int) -> list[str]:
    """Follow `next` to the end."""
    found: list[str] = []
    page = await ask(service, path, limit=limit, **params)
    while True:
        assert len(page["data"]) <= limit
        found += [row[key] for row in page["data"]]
        if page["next"] is None:
            return found
        page = await ask(service, path, limit=limit, cursor=page["next"], **params)


async def test_the_list_is_newest_activity_first_in_an_envelope_of_data_and_next(service: Service) -> None:
    for n in range(3):
        await write(service, f"p{n}", f"m_{n}", NOON + timedelta(minutes=n), text=f"text {n}")
    page = await ask(service, "/api/conversations")
    assert page.keys() == {"data", "next"}
    assert [row["psid"] for row in page["data"]] == ["p2", "p1", "p0"]
    assert page["next"] is None
    first = page["data"][0]
    assert first["page_id"] == PAGE
    assert first["last_message_at"] == "2026-03-01T12:02:00Z"
    assert first["last_message_mid"] == "m_2"
    assert first["last_message_direction"] == "inbound"
    assert first["snippet"] == "text 2"


async def test_an_empty_mirror_has_an_empty_list(service: Service) -> None:
    assert await ask(service, "/api/conversations", count="exact") == {"data": [], "next": None, "total": 0}


async def test_the_total_is_told_only_when_asked_for_and_counts_beyond_the_page(service: Service) -> None:
    for n in range(3):
        await write(service, f"p{n}", f"m_{n}", NOON, page_id=PAGE if n else OTHER_PAGE)
    assert (await ask(service, "/api/conversations", count="exact", limit=1))["total"] == 3
    assert (await ask(service, "/api/conversations", count="exact", page_id=PAGE))["total"] == 2
    assert "total" not in await ask(service, "/api/conversations", count="none")
    assert_problem(await service.http.get("/api/conversations", params={"count": "some"}), 422, "count")


async def test_fields_are_the_columns_by_their_names(service: Service) -> None:
    await write(service, "p", "m_1", NOON)
    conversation = (await ask(service, "/api/conversations"))["data"][0]
    assert conversation.keys() - {"tags"} <= await columns(service, "conversations")
    alone = await ask(service, f"/api/conversations/{PAGE}/p")
    assert alone == {**conversation, "audit_state": None, "audited_at": None, "missing_in_graph": 0}
    message = (await ask(service, f"/api/conversations/{PAGE}/p/messages"))["data"][0]
    derived = {"reactions", "is_edited", "original_text", "origin", "is_delivered", "is_read", "lateness_seconds"}
    assert message.keys() - derived <= await columns(service, "messages")
    promised = {"page_id", "mid", "psid", "direction", "sent_at", "text", "attachments", "is_deleted"}
    assert promised | {"first_seen_via", "first_seen_at"} <= message.keys()


async def test_paging_gives_each_conversation_once_though_all_spoke_at_one_instant(service: Service) -> None:
    wanted = set()
    for n in range(7):
        page_id = PAGE if n % 2 else OTHER_PAGE
        await write(service, f"p{n}", f"m_{n}", NOON, page_id=page_id)
        wanted.add(f"p{n}")
    found = await walk(service, "/api/conversations", key="psid")
    assert len(found) == 7
    assert set(found) == wanted
    assert set(await walk(service, "/api/conversations", key="psid", page_id=PAGE)) == {"p1", "p3", "p5"}


async def test_paging_repeats_and_loses_nothing_while_messages_arrive(service: Service) -> None:
    for n in range(6):
        await write(service, f"p{n}", f"m_{n}", NOON + timedelta(minutes=n))
    first = await ask(service, "/api/conversations", limit=2)
    await write(service, "new", "m_new", NOON + timedelta(hours=1))
    await write(service, "p5", "m_again", NOON + timedelta(hours=2))
    await write(service, "late", "m_late", NOON + timedelta(minutes=1, seconds=30))
    second = await ask(service, "/api/conversations", limit=2, cursor=first["next"])
    third = await ask(service, "/api/conversations", limit=10, cursor=second["next"])
    shown = [row["psid"] for page in (first, second, third) for row in page["data"]]
    assert shown == ["p5", "p4", "p3", "p2", "late", "p1", "p0"]
    assert third["next"] is None


async def test_a_cursor_of_one_page_is_refused_for_another(service: Service) -> None:
    for n in range(3):
        await write(service, f"p{n}", f"m_{n}", NOON)
    cursor = (await ask(service, "/api/conversations", page_id=PAGE, limit=1))["next"]
    response = await service.http.get("/api/conversations", params={"page_id": OTHER_PAGE, "cursor": cursor})
    assert_problem(response, 422, "cursor")


async def test_a_conversation_without_any_message_is_shown_but_not_listed(service: Service) -> None:
    read = (
        b'{"object":"page","entry":[{"id":"1001","time":1772366400000,"messaging":[{"sender":{"id":"p"},'
        b'"recipient":{"id":"1001"},"timestamp":1772366400000,"read":{"watermark":1772366400000}}]}]}'
    )
    assert (await deliver(service.http, read)).status_code == 200
    assert (await ask(service, "/api/conversations", count="exact"))["total"] == 0
    assert (await ask(service, f"/api/conversations/{PAGE}/p"))["read_watermark"] == "2026-03-01T12:00:00Z"
    assert await ask(service, f"/api/conversations/{PAGE}/p/messages") == {"data": [], "next": None}


async def test_messages_are_newest_first_and_page_by_time_and_mid(service: Service) -> None:
    for n in range(5):
        await write(service, "p", f"m_{n}", NOON + timedelta(seconds=n // 2))
    path = f"/api/conversations/{PAGE}/p/messages"
    assert await walk(service, path, key="mid") == ["m_4", "m_3", "m_2", "m_1", "m_0"]
    first = await ask(service, path, limit=2)
    await write(service, "p", "m_9", NOON + timedelta(hours=1))
    rest = await ask(service, path, limit=500, cursor=first["next"])
    assert [row["mid"] for row in rest["data"]] == ["m_2", "m_1", "m_0"]


async def test_a_message_shows_who_reacted_and_one_only_reacted_to_is_not_listed(service: Service) -> None:
    await write(service, "p", "m_1", NOON)
    for mid in ("m_1", "m_unknown"):
        reaction = (
            '{"object":"page","entry":[{"id":"1001","time":1772366400000,"messaging":[{"sender":{"id":"p"},'
            '"recipient":{"id":"1001"},"timestamp":1772366460000,"reaction":{"reaction":"love","emoji":"\\u2764",'
            f'"action":"react","mid":"{mid}"}}}}]}}]}}'
        )
        assert (await deliver(service.http, reaction.encode())).status_code == 200
    page = await ask(service, f"/api/conversations/{PAGE}/p/messages")
    assert [row["mid"] for row in page["data"]] == ["m_1"]
    assert page["data"][0]["reactions"] == [
        {"actor": "p", "reaction": "love", "emoji": "❤", "reacted_at": "2026-03-01T12:01:00.000000Z"}
    ]
    assert page["data"][0]["is_edited"] is False


async def test_what_is_not_known_is_a_404_problem(service: Service) -> None:
    await write(service, "p", "m_1", NOON)
    for path in (f"{PAGE}/q", f"{OTHER_PAGE}/p", f"{PAGE}/q/messages"):
        assert_problem(await service.http.get(f"/api/conversations/{path}"), 404, "psid")


async def test_an_address_with_the_threads_id_leads_to_its_person(service: Service) -> None:
    await write(service, "p/ü", "m_1", NOON)
    async with service.state["pool"].acquire() as connection:
        await connection.execute(
            """
            INSERT INTO conversation_threads (page_id, thread_id, psid, created_at)
            VALUES ($1, 't_1', 'p/ü', now()), ($1, 't_2', 't_2', now())
            """,
            PAGE,
        )
    for suffix in ("", "/messages?limit=1"):
        response = await service.http.get(f"/api/conversations/{PAGE}/t_1{suffix}")
        assert response.status_code == 308
        assert response.headers["location"] == f"/api/conversations/{PAGE}/p%2F%C3%BC{suffix}"
    assert_problem(await service.http.get(f"/api/conversations/{PAGE}/t_2"), 404, "psid")
