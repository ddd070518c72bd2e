from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from sql.json_values import dumps
from sql.loss import expect_fields, expect_no_more, loss_by_hour, loss_since, outages
from sql.pages import put_page, remove_page
from sql.rows import Event, Message, Rows
from sql.upsert import upsert

if TYPE_CHECKING:
    import asyncpg

    from sql.upsert import Connection

PAGE = "101"
START = datetime(2031, 5, 6, 7, tzinfo=UTC)
LATER = START + timedelta(hours=12)
MINUTE = timedelta(minutes=1)


def message(
    number: int,
    *,
    minute: float = 0,
    webhook_late: float | None = None,
    sync_late: float | None = None,
    direction: str = "inbound",
    page_id: str = PAGE,
    text: str = "hello",
) -> Message:
    """A message sent `minute` minutes after START; the doors brought it so many minutes later, None: never."""
    sent_at = START + minute * MINUTE
    seen = (sent_at + late * MINUTE if late is not None else None for late in (webhook_late, sync_late))
    return Message(
        page_id,
        f"m_{number:04}",
        "7",
        direction=direction,
        sent_at=sent_at,
        sent_at_rank=1,
        original=dumps({"text": text}),
        **dict(zip(("webhook_seen_at", "sync_seen_at"), seen, strict=True)),  # type: ignore[arg-type]
    )


async def store(connection: Connection, *messages: Message, events: tuple[Event, ...] = ()) -> None:
    rows = Rows()
    rows.messages += messages
    rows.events += events
    async with connection.transaction():
        await upsert(connection, rows)


async def report(connection: Connection, *, now: datetime = LATER, **which: Any) -> list[asyncpg.Record]:
    span = {"since": START, "until": START + timedelta(hours=5), "page_id": None} | which
    return await loss_by_hour(connection, now=now, **span)


@pytest.fixture
async def page(connection: Connection) -> str:
    """A Page that has been expected of webhooks since long before START."""
    await put_page(connection, PAGE, "sealed", None, now=START)
    await connection.execute("UPDATE webhook_expectations SET started_at = $1", START - timedelta(days=1))
    return PAGE


@pytest.mark.usefixtures("page")
async def test_a_message_is_missed_when_no_webhook_brought_it_within_fifteen_minutes(connection: Connection) -> None:
    await store(
        connection,
        message(1, webhook_late=0.1, sync_late=3),
        message(2, webhook_late=15),
        message(3, webhook_late=15.01),  # late: missed all the same
        message(4, sync_late=5),
        message(5, sync_late=25),
    )
    (hour,) = await report(connection)
    assert (hour["sent"], hour["by_webhook"], hour["missed"], hour["repaired"], hour["late"]) == (5, 2, 3, 2, 1)
    assert hour["loss_percent"] == 60.0
    assert hour["repair_lateness"] == pytest.approx([15 * 60, 24 * 60, 25 * 60])
    assert hour["webhook_lateness"][2] == pytest.approx(15.01 * 60)


@pytest.mark.usefixtures("page")
async def test_a_message_is_undecided_until_its_fifteen_minutes_are_over(connection: Connection) -> None:
    await store(connection, message(1, minute=10, sync_late=1), message(2, minute=0, sync_late=1))
    (hour,) = await report(connection, now=START + 15 * MINUTE)
    assert (hour["sent"], hour["missed"], hour["undecided"], hour["loss_percent"]) == (2, 1, 1, 100.0)
    (hour,) = await report(connection, now=START + 25 * MINUTE)
    assert (hour["missed"], hour["undecided"]) == (2, 0)


@pytest.mark.usefixtures("page")
async def test_a_webhook_that_comes_late_corrects_what_was_decided(connection: Connection) -> None:
    await store(connection, message(1, sync_late=3))
    (hour,) = await report(connection)
    assert (hour["missed"], hour["late"]) == (1, 0)
    await store(connection, message(1, webhook_late=90))
    (hour,) = await report(connection)
    assert (hour["missed"], hour["late"], hour["repaired"]) == (1, 1, 1)


@pytest.mark.usefixtures("page")
async def test_what_came_late_by_webhook_was_not_repaired_by_the_sync_that_read_it_afterwards(
    connection: Connection,
) -> None:
    await store(connection, *(message(n, minute=n, webhook_late=20, sync_late=25) for n in range(3)))
    (hour,) = await report(connection)
    assert (hour["missed"], hour["late"], hour["repaired"], hour["repair_lateness"]) == (3, 3, 0, None)
    (window,) = await outages(connection, since=START, until=LATER, page_id=PAGE, now=LATER)
    assert (window["missed"], window["repaired"], window["repaired_at"]) == (3, 0, None)
    (today,) = await loss_since(connection, START, now=LATER)
    assert (today["missed"], today["repaired"]) == (3, 0)


async def test_history_from_before_the_first_subscription_is_no_loss(connection: Connection) -> None:
    await put_page(connection, PAGE, "sealed", None, now=START)
    await connection.execute("UPDATE webhook_expectations SET started_at = $1", START + 30 * MINUTE)
    await store(connection, message(1, minute=29.9, sync_late=60), message(2, minute=30, sync_late=60))
    (hour,) = await report(connection)
    assert (hour["sent"], hour["missed"]) == (1, 1)


@pytest.mark.usefixtures("page")
async def test_nothing_is_expected_while_a_page_is_removed_and_again_once_it_is_back(connection: Connection) -> None:
    assert await remove_page(connection, PAGE)
    await connection.execute("UPDATE webhook_expectations SET ended_at = $1", START + 10 * MINUTE)
    await put_page(connection, PAGE, "sealed", None, now=START)
    await connection.execute(
        "UPDATE webhook_expectations SET started_at = $1 WHERE ended_at IS NULL", START + 20 * MINUTE
    )
    await store(connection, *(message(n, minute=n, sync_late=60) for n in (5, 10, 15, 20, 25)))
    (hour,) = await report(connection)
    assert (hour["sent"], hour["missed"]) == (3, 3)


@pytest.mark.usefixtures("page")
async def test_each_direction_is_expected_by_its_own_field(connection: Connection) -> None:
    await expect_no_more(connection, PAGE, ["message_echoes"])
    await connection.execute("UPDATE webhook_expectations SET ended_at = $1 WHERE ended_at IS NOT NULL", START)
    await store(
        connection, message(1, sync_late=60), message(2, sync_late=60, direction="outbound"), message(3, webhook_late=0)
    )
    (hour,) = await report(connection)
    assert (hour["sent"], hour["sent_inbound"], hour["sent_outbound"], hour["missed"]) == (2, 2, 0, 1)


@pytest.mark.usefixtures("page")
async def test_expecting_what_is_expected_already_changes_nothing(connection: Connection) -> None:
    before = await connection.fetch("SELECT * FROM webhook_expectations ORDER BY field")
    await expect_fields(connection, PAGE, ["messages", "messages"])
    assert await connection.fetch("SELECT * FROM webhook_expectations ORDER BY field") == before


@pytest.mark.usefixtures("page")
async def test_a_postback_without_mid_that_came_as_an_event_is_not_missed(connection: Connection) -> None:
    tapped = Event(
        *(PAGE, "postback:1", "7", "postback", "messaging", None, START + timedelta(milliseconds=700), False),
        *(dumps({"postback": {"title": "Start", "payload": "GO"}}), START, START.date(), UUID(int=1)),
    )
    await store(
        connection,
        message(1, sync_late=30, text="Start"),
        message(2, sync_late=30, text="something typed"),
        message(3, minute=4, sync_late=30, text="Start"),
        events=(tapped,),
    )
    (hour,) = await report(connection)
    assert (hour["sent"], hour["missed"]) == (3, 2)


@pytest.mark.usefixtures("page")
async def test_a_report_is_per_page_and_hour_and_of_its_span_alone(connection: Connection) -> None:
    await put_page(connection, "202", "sealed", None, now=START)
    await connection.execute("UPDATE webhook_expectations SET started_at = $1", START - timedelta(days=1))
    await store(
        connection,
        *(message(n, minute=n * 40, webhook_late=0) for n in range(4)),
        message(9, minute=1, sync_late=30, page_id="202"),
        message(10, minute=-1, webhook_late=0),
        message(11, minute=300, webhook_late=0),
    )
    hours = await report(connection)
    assert [(h["page_id"], h["hour"].hour, h["sent"]) for h in hours] == [
        (PAGE, 7, 2),
        (PAGE, 8, 1),
        (PAGE, 9, 1),
        ("202", 7, 1),
    ]
    assert [h["page_id"] for h in await report(connection, page_id="202")] == ["202"]


@pytest.mark.usefixtures("page")
async def test_an_outage_is_a_span_of_messages_missed_one_after_the_other(connection: Connection) -> None:
    missed = {3, 4, 5, 6, 9, 12, 13}
    await store(
        connection,
        *(message(n, minute=n, sync_late=30) for n in missed),
        *(message(n, minute=n, webhook_late=0) for n in range(15) if n not in missed),
    )
    (window,) = await outages(connection, since=START, until=LATER, page_id=PAGE, now=LATER)
    assert (window["began_at"], window["ended_at"]) == (START + 3 * MINUTE, START + 6 * MINUTE)
    assert (window["missed"], window["repaired"], window["repaired_at"]) == (4, 4, START + 36 * MINUTE)


@pytest.mark.usefixtures("page")
async def test_a_message_only_referred_to_is_in_no_report(connection: Connection) -> None:
    await store(connection, Message(PAGE, "m_0001", "7"))
    assert await report(connection) == []
