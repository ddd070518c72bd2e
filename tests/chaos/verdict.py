"""What a mirror must be after a play: the truth, in the classes in which it can be known."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from app.demo.comparison import Difference, at, compare_conversations, compare_messages
from sql.export import export_conversations, export_messages
from sql.json_values import dumps
from tests.chaos.shown import compare_shown
from tests.chaos.told import LIVE, compare_events, compare_told

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import asyncpg

    from app.demo.run import Delivered
    from simulator import Item, World
    from simulator.truth import MessageTruth
    from sql.pool import Pool
    from tests.chaos.ledger import Ledger


class Mirror(NamedTuple):
    """A world, the database that mirrors it, the items that were acknowledged, and the posts they came in."""

    world: World
    pool: Pool
    delivered: Delivered
    told: list[Item]
    ledger: Ledger
    unheard: Collection[str | None] = ()  # of which messages a webhook did not arrive

    async def rows(self, query: str, *values: object) -> list[asyncpg.Record]:
        async with self.pool.acquire() as connection:
            return await connection.fetch(query, *values)

    async def messages(self, page_id: str) -> dict[str, asyncpg.Record]:
        """The messages of a Page by their mids, without what is only referred to."""
        rows = await self.rows("SELECT * FROM messages WHERE page_id = $1 AND sent_at IS NOT NULL", page_id)
        return {row["mid"]: row for row in rows}


async def of_what_was_wholly_told(mirror: Mirror) -> list[str]:
    """Messages of which every webhook arrived: whatever syncs have read meanwhile, they are the truth at any moment."""
    found: list[Difference] = []
    for page in mirror.world.pages:
        whole = {mid for mid, kinds in mirror.delivered.kinds.items() if kinds & LIVE and mid not in mirror.unheard}
        truth = [true for true in mirror.world.true_messages(page.id) if true.mid in whole]
        async with mirror.pool.acquire() as connection:
            rows = [row for row in await export_messages(connection, page.id) if row["mid"] in whole]
        found += compare_messages(page.id, truth, rows, mirror.delivered.kinds)
    return [f"{difference.kind}: {difference.key}: {difference.what}" for difference in found]


async def after_a_sync(mirror: Mirror) -> list[str]:
    """Messages that Graph shows: who, when, what, with what attached, and whose conversation it is."""
    found: list[str] = []
    for page in mirror.world.pages:
        rows = await mirror.messages(page.id)
        shown = [true for true in mirror.world.true_messages(page.id) if true.in_graph]
        for true in shown:
            row = rows.get(true.mid)
            found += [f"{true.mid} is missing"] if row is None else _wrong_after_a_sync(mirror, true, row)
        threads = await mirror.rows("SELECT thread_id, psid FROM conversation_threads WHERE page_id = $1", page.id)
        whose = {row["thread_id"]: row["psid"] for row in threads}
        conversations = {
            row["psid"] for row in await mirror.rows("SELECT psid FROM conversations WHERE page_id = $1", page.id)
        }
        for thread_id, psid in {(true.thread_id, true.psid) for true in shown}:
            if whose.get(thread_id) != psid or psid not in conversations:
                found.append(f"{thread_id} is {whose.get(thread_id)}'s, not {psid}'s")
    return found


def _wrong_after_a_sync(mirror: Mirror, true: MessageTruth, row: asyncpg.Record) -> Iterator[str]:
    came_live = bool(mirror.delivered.kinds.get(true.mid, set()) & LIVE)
    sent_at = at(true.sent_at_ms if came_live else true.graph_sent_at_ms)
    expected = (true.psid, true.thread_id, true.direction, sent_at, False)
    seen = (row["psid"], row["thread_id"], row["direction"], row["sent_at"], row["is_deleted"])
    if seen != expected:
        yield f"{true.mid} is {seen}, not {expected}"
    if not true.num_edit and row["text"] != true.text:
        yield f"{true.mid} says {row['text']!r}, not {true.text!r}"
    if row["sync_seen_at"] is None:
        yield f"{true.mid} was seen by no sync"
    attachments = [dumps(attachment) for attachment in row["attachments"] or []]
    known = true.attachments_at(webhook=came_live)
    if len(attachments) != len(known) or not all(
        one.identity in text for one, text in zip(known, attachments, strict=True)
    ):
        yield f"{true.mid} has the attachments {attachments}, not {known}"


async def after_an_audit(mirror: Mirror) -> list[str]:
    """Everything else that Graph shows: texts after edits, reactions, attachments; people and their receipts."""
    found: list[Difference] = []
    beside: list[str] = []
    for page in mirror.world.pages:
        truth = mirror.world.truth(page.id)
        async with mirror.pool.acquire() as connection:
            messages = await export_messages(connection, page.id)
            conversations = await export_conversations(connection, page.id)
            beside += await compare_shown(
                connection, mirror.world, page.id, mirror.delivered.kinds, mirror.delivered.watermarks
            )
        found += compare_messages(page.id, truth.messages, messages, mirror.delivered.kinds)
        found += compare_conversations(page.id, truth.conversations, conversations, mirror.delivered.watermarks)
        shown = {row["psid"]: row for row in await mirror.rows(_CONVERSATIONS, page.id)}
        for true in truth.conversations:
            row = shown.get(true.psid)
            updated_time = at(true.updated_time_ms // 1000 * 1000)
            if row is not None and row["updated_time"] != updated_time:
                what = f"updated_time is {row['updated_time']}, not {updated_time}"
                found.append(Difference(page.id, true.psid, "wrong", what))
        beside += [f"{mid} is in no list, and nobody marked it" for mid in await _not_marked(mirror, page.id)]
    return beside + [f"{difference.kind}: {difference.key}: {difference.what}" for difference in found]


async def _not_marked(mirror: Mirror, page_id: str) -> list[str]:
    """Messages that were unsent, of which no webhook came: the audit must have noticed that Graph lists them no more.

    But for the tap of a button, which Graph need not show.
    """
    rows = await mirror.messages(page_id)
    gone = [true.mid for true in mirror.world.true_messages(page_id) if true.is_deleted]
    kinds = mirror.delivered.kinds
    return [
        mid
        for mid in gone
        if mid in rows
        and "unsend" not in kinds.get(mid, ())
        and (rows[mid]["sync_seen_at"] is not None or "postback" not in kinds.get(mid, ()))
        and rows[mid]["absent_since"] is None
    ]


async def of_what_was_told(mirror: Mirror) -> list[str]:
    """What only webhooks tell, the journal of them, and rows that contradict themselves."""
    about: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in mirror.told:
        if item.mid is not None:
            about[item.page_id, item.mid].append(item)
    found: list[str] = []
    for page in mirror.world.pages:
        rows = await mirror.messages(page.id)
        for true in mirror.world.true_messages(page.id):
            items = about.get((page.id, true.mid), [])
            kinds = {item.kind for item in items}
            if true.mid not in rows and not kinds & LIVE:
                continue  # only that it was unsent, edited or reacted to is known: a placeholder
            found += compare_told(true, rows.get(true.mid), items)
    found += compare_events(mirror.told, await mirror.rows("SELECT * FROM conversation_events"))
    journal = await mirror.rows("SELECT body, count(*) AS times FROM webhook_deliveries GROUP BY body")
    found += mirror.ledger.differences({row["body"]: row["times"] for row in journal})
    found += [str(dict(row)) for row in await mirror.rows(_LAST_MESSAGES_THAT_ARE_NOT_THE_NEWEST)]
    found += [str(dict(row)) for row in await mirror.rows(_TOMBSTONES_WITH_CONTENT)]
    found += [str(dict(row)) for row in await mirror.rows(_BROUGHT_BY_NO_DELIVERY_OF_ITS_OWN)]
    found += [str(dict(row)) for row in await mirror.rows("SELECT * FROM webhook_deliveries WHERE state <> 'stored'")]
    return found


_BROUGHT_BY_NO_DELIVERY_OF_ITS_OWN = """
    SELECT m.mid, m.delivery_day, m.delivery_id FROM messages AS m
    LEFT JOIN webhook_deliveries AS d ON d.day = m.delivery_day AND d.id = m.delivery_id
    WHERE (m.webhook_seen_at IS NOT NULL OR m.is_deleted)
    AND (d.id IS NULL OR position(convert_to(substr(m.mid, 3), 'UTF8') in d.body) = 0)
"""
_CONVERSATIONS = "SELECT psid, updated_time FROM conversations WHERE page_id = $1"
_LAST_MESSAGES_THAT_ARE_NOT_THE_NEWEST = """
    SELECT c.psid, c.last_message_mid, c.last_message_at, c.snippet, newest.mid, newest.sent_at, newest.text
    FROM conversations AS c
    LEFT JOIN LATERAL (
        SELECT m.mid, m.sent_at, m.direction, m.text FROM messages AS m
        WHERE m.page_id = c.page_id AND m.psid = c.psid AND m.sent_at IS NOT NULL
        ORDER BY m.sent_at DESC, m.mid DESC LIMIT 1
    ) AS newest ON true
    WHERE (c.last_message_mid, c.last_message_at, c.last_message_direction, c.snippet)
        IS DISTINCT FROM (newest.mid, newest.sent_at, newest.direction, left(newest.text, 200))
"""
_TOMBSTONES_WITH_CONTENT = """
    SELECT m.mid, m.text, m.attachments FROM messages AS m
    WHERE m.is_deleted AND (
        m.text IS NOT NULL OR m.attachments IS NOT NULL
        OR EXISTS (
            SELECT FROM message_reactions AS r WHERE r.page_id = m.page_id AND r.mid = m.mid AND NOT r.is_removed
        )
    )
"""
