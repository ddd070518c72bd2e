"""Readers page through lists that come out of an index, however deep they are and however many rows there are."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from sql.conversation_lists import Wanted, list_conversations
from sql.messages import list_messages
from tests.sql.explainer import Explainer

if TYPE_CHECKING:
    from sql.upsert import Connection

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGES, CONVERSATIONS, MESSAGES = 5, 2000, 5000


@pytest.fixture
async def explainer(connection: Connection) -> Explainer:
    await connection.execute(
        """
        INSERT INTO conversations (page_id, psid, platform, last_message_mid, last_message_at, created_at, updated_at)
        SELECT p, 'p' || n, 'messenger', 'm_' || n, $3::timestamptz - n * interval '1 second', now(), now()
        FROM generate_series(1, $1::integer) AS p, generate_series(1, $2::integer) AS n
        """,
        PAGES,
        CONVERSATIONS,
        NOON,
    )
    await connection.execute(
        """
        INSERT INTO messages (page_id, mid, psid, sent_at, sent_at_rank, seen_batch, changed_batch, updated_at)
        SELECT '1', 'm_' || n, 'p' || (1 + n % 2), $2::timestamptz - n * interval '1 second', 0, 1, 1, now()
        FROM generate_series(1, $1::integer) AS n
        """,
        MESSAGES,
        NOON,
    )
    await connection.execute(
        """
        INSERT INTO message_reactions (page_id, mid, actor, is_removed, updated_at)
        SELECT '1', 'm_' || n, 'p1', false, now() FROM generate_series(1, $1::integer) AS n
        """,
        MESSAGES,
    )
    await connection.execute("ANALYZE conversations, messages, message_reactions")
    return Explainer(connection)


def assert_reads_an_index_in_order(plan: str, index: str) -> None:
    assert re.search(rf"Index (Only )?Scan.* using \S*{index}\S*", plan), plan
    assert "Seq Scan" not in plan, plan
    assert not re.search(r"^\s*(->\s*)?(Incremental )?Sort\b", plan.partition("SubPlan")[0], re.MULTILINE), plan
    assert "Bitmap" not in plan, plan


@pytest.mark.parametrize("page_id", [None, "3"])
async def test_conversations_are_listed_from_an_index_at_the_start_and_deep_down(
    explainer: Explainer, page_id: str | None
) -> None:
    connection = explainer.connection
    index = "conversations_by_activity" if page_id else "conversations_by_activity_of_all"
    rows = await list_conversations(connection, Wanted(page_id), after=None, limit=51)
    assert_reads_an_index_in_order(explainer.plan, index)
    after = (NOON - timedelta(seconds=CONVERSATIONS // 2), "3", f"p{CONVERSATIONS // 2}")
    rest = await list_conversations(connection, Wanted(page_id), after=after, limit=51)
    assert_reads_an_index_in_order(explainer.plan, index)
    assert re.search(r"Index Cond: .*ROW\(", explainer.plan), explainer.plan
    assert len(rows.rows) == len(rest.rows) == 51
    assert rest.rows[0]["last_message_at"] >= NOON - timedelta(seconds=CONVERSATIONS // 2 + 1)


async def test_messages_are_listed_from_an_index_at_the_start_and_deep_down(explainer: Explainer) -> None:
    connection = explainer.connection
    assert len(await list_messages(connection, "1", "p1", after=None, limit=51)) == 51
    assert_reads_an_index_in_order(explainer.plan, "messages_by_time")
    assert explainer.most_read() == 51
    after = (NOON - timedelta(seconds=MESSAGES // 2), f"m_{MESSAGES // 2}")
    assert len(await list_messages(connection, "1", "p1", after=after, limit=51)) == 51
    assert_reads_an_index_in_order(explainer.plan, "messages_by_time")
    assert explainer.most_read() == 51
    assert re.search(r"Index Cond: .*ROW\(", explainer.plan), explainer.plan


@pytest.mark.parametrize("tables", ["plain", "hash-partitioned"])
async def test_every_conversation_comes_up_once_in_one_order_with_and_without_its_page(explainer: Explainer) -> None:
    connection = explainer.connection
    for page_id, total in ((None, PAGES * CONVERSATIONS), ("3", CONVERSATIONS)):
        seen: list[tuple[datetime, str, str]] = []
        while True:
            listed = await list_conversations(
                connection, Wanted(page_id), after=seen[-1] if seen else None, limit=501, count=True
            )
            assert listed.total == total
            if not listed.rows:
                break
            seen += [(row["last_message_at"], row["page_id"], row["psid"]) for row in listed.rows]
        assert len(seen) == total
        assert seen == sorted(set(seen), reverse=True)
