"""What an audit makes of threads: whether their messages are the ones that Graph lists, by id, never by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sql.audit_turns import note_begun

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sql.upsert import Connection


class Listing(NamedTuple):
    """A page of a thread's messages as Graph listed it.

    `mids` are all its ids. `stubs` are messages without details; not `is_clean` when a row could not be read. It
    `begins` at the newest message, it `ends` at the oldest. `is_deep`: read for its own sake, not nested in a list.
    """

    thread_id: str
    mids: tuple[str, ...]
    observed_at: datetime
    stubs: int = 0
    is_clean: bool = True
    begins: bool = True
    ends: bool = True
    is_deep: bool = False


class Found(NamedTuple):
    """How many messages of a page of a thread were missing here, and how many read otherwise."""

    restored: int = 0
    changed: int = 0


class Seen(NamedTuple):
    """What readers see of a message, as far as an audit compares it.

    `attachments` are their types; `reactions` are (actor, reaction, emoji).
    """

    text: str | None
    reply_to: str | None
    attachments: list[str]
    reactions: list[list[str | None]]


class Outcome(NamedTuple):
    """What a thread turned out to be, and how many of its messages Graph has listed no more for the second time."""

    thread_id: str
    state: str
    missing: int


async def read_seen(connection: Connection, page_id: str, mids: Collection[str]) -> dict[str, Seen]:
    """What readers see of these messages now; placeholders and unknown ones are left out."""
    rows = await connection.fetch(
        """
        SELECT
            m.mid, m.text, m.reply_to,
            ARRAY(
                SELECT a.value ->> 'type' FROM jsonb_array_elements(m.attachments) AS a (value)
                ORDER BY a.value ->> 'type'
            ) AS attachments,
            (
                SELECT COALESCE(jsonb_agg(jsonb_build_array(r.actor, r.reaction, r.emoji) ORDER BY r.actor), '[]')
                FROM message_reactions AS r
                WHERE r.page_id = m.page_id AND r.mid = m.mid AND NOT r.is_removed
            ) AS reactions
        FROM messages AS m
        WHERE m.page_id = $1 AND m.mid = ANY($2::text[]) AND m.sent_at IS NOT NULL
        """,
        page_id,
        list(mids),
    )
    return {r["mid"]: Seen(r["text"], r["reply_to"], r["attachments"], r["reactions"]) for r in rows}


async def conclude_listings(
    connection: Connection, page_id: str, run_id: int, listings: Sequence[Listing], found: dict[str, Found]
) -> list[Outcome]:
    """Compare threads that were listed to their end with what is stored, and record what they turned out to be.

    Must be called in the transaction that stores the last page of each, before the run forgets them. A thread that the
    run has compared before is left as it is.
    """
    if not listings:
        return []
    rows = await connection.fetch(
        """
        SELECT
            n.thread_id,
            CASE WHEN n.begins THEN n.observed_at ELSE u.listed_from END AS listed_from,
            n.is_clean AND (n.begins OR u.is_clean) AS is_clean,
            n.stubs + CASE WHEN n.begins THEN 0 ELSE u.stubs END AS stubs,
            n.found + COALESCE(u.restored + u.changed, 0) AS found
        FROM unnest($3::text[], $4::timestamptz[], $5::integer[], $6::boolean[], $7::boolean[], $8::integer[])
            AS n (thread_id, observed_at, stubs, is_clean, begins, found)
        JOIN conversation_threads AS t ON t.page_id = $1 AND t.thread_id = n.thread_id
        LEFT JOIN unfinished_threads AS u ON u.page_id = $1 AND u.run_id = $2 AND u.thread_id = n.thread_id
        WHERE (n.begins OR u.listed_from IS NOT NULL)
        AND (t.audited_at IS NULL OR t.audited_at < (SELECT r.started_at FROM sync_runs AS r WHERE r.id = $2))
        ORDER BY n.thread_id
        """,
        page_id,
        run_id,
        [listing.thread_id for listing in listings],
        [listing.observed_at for listing in listings],
        [listing.stubs for listing in listings],
        [listing.is_clean for listing in listings],
        [listing.begins for listing in listings],
        [sum(found.get(listing.thread_id, Found())) for listing in listings],
    )
    clean = {r["thread_id"]: r["listed_from"] for r in rows if r["is_clean"]}
    missing = await _mark_absent(connection, page_id, run_id, clean, [m for li in listings for m in li.mids])
    outcomes = [Outcome(r["thread_id"], _state(r), missing.get(r["thread_id"], 0)) for r in rows]
    await connection.execute(
        """
        UPDATE conversation_threads AS t
        SET audit_state = n.state, audited_at = now(), audit_tried_at = now(), audit_tried_in = $2
        FROM unnest($3::text[], $4::text[]) AS n (thread_id, state)
        WHERE t.page_id = $1 AND t.thread_id = n.thread_id
        """,
        page_id,
        run_id,
        [outcome.thread_id for outcome in outcomes],
        [outcome.state for outcome in outcomes],
    )
    return outcomes


def _state(row: Any) -> str:
    if row["stubs"] or not row["is_clean"]:
        return "unverifiable"
    return "repaired" if row["found"] else "verified"


async def _mark_absent(
    connection: Connection, page_id: str, run_id: int, threads: dict[str, datetime], mids: Sequence[str]
) -> dict[str, int]:
    """Mark the messages of threads that their listings lack; returns how many lack for the second time or more.

    `threads` says from when on each listing tells nothing: what was sent later is not in it. What was unsent is not
    looked for, nor what was only referred to. Neither is what Graph may never show (Webhooks sheet, 5.1 and 6): the
    summary of a lead ad, and the tap of a button, which it shows as a message under an id of its own.

    Of a person with several threads, a message that no thread was told for may be in any of them.
    """
    if not threads:
        return {}
    rows = await connection.fetch(
        """
        WITH n AS (
            SELECT n.thread_id, n.listed_from, t.psid
            FROM unnest($3::text[], $4::timestamptz[]) AS n (thread_id, listed_from)
            JOIN conversation_threads AS t ON t.page_id = $1 AND t.thread_id = n.thread_id
        ),
        listed AS (
            SELECT l.mid COLLATE "C" AS mid FROM unnest($5::text[]) AS l (mid)
            UNION ALL
            SELECT unnest(a.mids) COLLATE "C" FROM n
            JOIN audit_listings AS a ON a.page_id = $1 AND a.run_id = $2 AND a.thread_id = n.thread_id
        ),
        absent AS (
            SELECT m.mid, n.thread_id, n.listed_from
            FROM n JOIN messages AS m ON m.page_id = $1 AND m.psid = n.psid
            WHERE m.sent_at < n.listed_from AND m.deleted_at IS NULL
            AND (m.sync_seen_at IS NOT NULL OR NOT COALESCE(m.original ?| ARRAY['postback', 'hop_context'], false))
            AND (
                m.thread_id = n.thread_id
                OR (m.thread_id IS NULL AND NOT EXISTS (
                    SELECT FROM conversation_threads AS o
                    WHERE o.page_id = $1 AND o.psid = n.psid AND o.thread_id <> n.thread_id
                ))
            )
            AND NOT EXISTS (SELECT FROM listed AS l WHERE l.mid = m.mid)
            ORDER BY m.mid
        ),
        marked AS (
            UPDATE messages AS m SET
                absent_since = COALESCE(m.absent_since, a.listed_from),
                missing_in_graph_since = COALESCE(m.missing_in_graph_since, m.absent_since),
                updated_at = CASE
                    WHEN m.missing_in_graph_since IS NULL AND m.absent_since IS NOT NULL THEN now() ELSE m.updated_at
                END
            FROM absent AS a
            WHERE m.page_id = $1 AND m.mid = a.mid
            RETURNING
                a.thread_id, m.page_id, m.mid, m.psid, m.missing_in_graph_since, m.updated_at = now() AS is_changed
        )
        SELECT
            thread_id, count(missing_in_graph_since) AS missing,
            note_changes(array_agg(ROW('message', page_id, mid, psid)::change_row) FILTER (WHERE is_changed))
        FROM marked GROUP BY thread_id
        """,
        page_id,
        run_id,
        list(threads),
        list(threads.values()),
        list(mids),
    )
    return {r["thread_id"]: r["missing"] for r in rows}


async def mark_listed(connection: Connection, page_id: str, mids: Collection[str]) -> None:
    """Take back that Graph lists these messages no more: it does."""
    await connection.execute(
        """
        WITH marked AS (
            UPDATE messages SET
                absent_since = NULL,
                missing_in_graph_since = NULL,
                updated_at = CASE WHEN missing_in_graph_since IS NULL THEN updated_at ELSE now() END
            WHERE page_id = $1 AND mid = ANY($2::text[]) AND absent_since IS NOT NULL
            RETURNING page_id, mid, psid, sent_at, updated_at
        )
        SELECT note_changes(array_agg(ROW('message', m.page_id, m.mid, m.psid)::change_row))
        FROM marked AS m WHERE m.updated_at = now() AND m.sent_at IS NOT NULL
        """,
        page_id,
        sorted(mids),
    )


async def keep_listings(
    connection: Connection, page_id: str, run_id: int, listings: Sequence[Listing], found: dict[str, Found]
) -> None:
    """Remember pages of threads that go on, until these come to their end.

    Must be called after their rows in `unfinished_threads` were written. A page that begins a thread replaces all that
    was listed of it before.
    """
    if not listings:
        return
    ids = [listing.thread_id for listing in listings]
    begun = [listing.thread_id for listing in listings if listing.begins]
    await connection.execute(
        "DELETE FROM audit_listings WHERE page_id = $1 AND run_id = $2 AND thread_id = ANY($3::text[])",
        page_id,
        run_id,
        begun,
    )
    await connection.execute(
        """
        UPDATE unfinished_threads AS u SET
            listed_from = CASE WHEN n.begins THEN n.observed_at ELSE u.listed_from END,
            stubs = CASE WHEN n.begins THEN 0 ELSE u.stubs END + n.stubs,
            is_clean = n.is_clean AND (n.begins OR u.is_clean),
            restored = u.restored + n.restored,
            changed = u.changed + n.changed
        FROM unnest(
            $3::text[], $4::timestamptz[], $5::integer[], $6::boolean[], $7::boolean[], $8::integer[], $9::integer[]
        ) AS n (thread_id, observed_at, stubs, is_clean, begins, restored, changed)
        WHERE u.page_id = $1 AND u.run_id = $2 AND u.thread_id = n.thread_id
        """,
        page_id,
        run_id,
        ids,
        [listing.observed_at for listing in listings],
        [listing.stubs for listing in listings],
        [listing.is_clean for listing in listings],
        [listing.begins for listing in listings],
        [found.get(thread_id, Found()).restored for thread_id in ids],
        [found.get(thread_id, Found()).changed for thread_id in ids],
    )
    await connection.executemany(
        """
        INSERT INTO audit_listings (page_id, run_id, thread_id, part, mids)
        SELECT $1, $2, $3, COALESCE(max(a.part), 0) + 1, $4
        FROM audit_listings AS a WHERE a.page_id = $1 AND a.run_id = $2 AND a.thread_id = $3
        """,
        [(page_id, run_id, listing.thread_id, list(listing.mids)) for listing in listings],
    )
    await note_begun(connection, page_id, run_id, [li.thread_id for li in listings if li.is_deep])
