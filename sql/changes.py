"""The feed of changes: which keys are new or read differently, in an order in which a reader misses nothing.

Why that is so stands in `sql/migrations/0013_feed_of_changes.sql`. A place in the feed is (transaction id, sequence).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from sql.partitions import keep_days

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import date, datetime
    from uuid import UUID

    from sql.upsert import Connection

Kind: TypeAlias = Literal["message", "conversation", "event", "page"]
Place: TypeAlias = tuple[int, int]

TABLE = "changes"
BEGINNING: Place = (0, 0)
SCANNED_AT_ONCE = 5_000  # of all Pages, where one Page's are wanted
_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"


class Change(NamedTuple):
    """A key under which readers see something else: a mid, psid or event_key; of kind `page`, the Page's id.

    `psid` is whose it is, None where nobody told.
    """

    kind: Kind
    page_id: str
    key: str
    psid: str | None


class ToldChange(NamedTuple):
    """A change at its place in the feed."""

    place: Place
    changed_at: datetime
    change: Change


class Feed(NamedTuple):
    """Which feed this is. Its `epoch` is another one after a restore, and in a copy.

    `dropped` is the last place that retention has taken away, None while there is none.
    """

    epoch: UUID
    dropped: Place | None


class ChangesRead(NamedTuple):
    """What was read: changes, and the place up to which that was all.

    `horizon` is what nobody could have read beyond; `is_all`: there is nothing more below it.
    """

    changes: list[ToldChange]
    place: Place
    horizon: Place
    is_all: bool
    feed: Feed


class ChangedPages(NamedTuple):
    """The Pages with changes after a place, each with the place of its last one.

    That was all below the `horizon` if `is_all`.
    """

    pages: dict[str, Place]
    horizon: Place
    is_all: bool
    feed: Feed


async def note_changes(connection: Connection, changes: Collection[Change]) -> None:
    """Append changes to the feed, as a part of the caller's transaction; what is there twice is noted once."""
    await connection.execute("SELECT note_changes($1::change_row[])", sorted(set(changes), key=lambda c: c[:3]))


async def read_changes(connection: Connection, after: Place, *, limit: int, page_id: str | None = None) -> ChangesRead:
    """Read the next changes, of one Page or of all, of transactions older than all that go on.

    Must not be called inside a transaction that keeps its snapshot. Of one Page, each call looks through at most
    SCANNED_AT_ONCE changes: there may be more though it returns none.
    """
    most = limit if page_id is None else max(limit, SCANNED_AT_ONCE)
    # one after the other: all below the horizon is there for the second to see, and what retention takes away between
    # these is told by the third
    below = int(await connection.fetchval(_HORIZON))
    horizon: Place = (below, 0)
    rows = await connection.fetch(
        f"""
        SELECT w.* FROM (
            SELECT
                c.xid::text::bigint AS xid, c.seq, c.changed_at, c.kind, c.page_id, c.key, c.psid,
                row_number() OVER () AS n
            FROM changes_after($1::text::xid8, $2, $3::text::xid8, $4) AS c
        ) AS w
        {"" if page_id is None else "WHERE w.page_id = $5 OR w.n = $4"}
        ORDER BY w.n
        """,
        str(after[0]),
        after[1],
        str(below),
        most,
        *(() if page_id is None else (page_id,)),
    )
    is_all = not rows or rows[-1]["n"] < most
    found = [
        ToldChange((r["xid"], r["seq"]), r["changed_at"], Change(r["kind"], r["page_id"], r["key"], r["psid"]))
        for r in rows
        if page_id is None or r["page_id"] == page_id
    ]
    place = horizon if is_all else (rows[-1]["xid"], rows[-1]["seq"])
    if len(found) > limit:
        found, is_all = found[:limit], False
        place = found[-1].place
    return ChangesRead(found, max(place, after), horizon, is_all, await feed(connection))


async def changed_pages(connection: Connection, after: Place) -> ChangedPages:
    """Tell which Pages have changes after a place, by looking through at most SCANNED_AT_ONCE of them.

    Must not be called inside a transaction that keeps its snapshot.
    """
    below = int(await connection.fetchval(_HORIZON))
    rows = await connection.fetch(
        """
        SELECT DISTINCT ON (w.page_id) w.page_id, w.xid::text::bigint AS xid, w.seq, w.scanned
        FROM (
            SELECT c.*, row_number() OVER () AS n, count(*) OVER () AS scanned
            FROM changes_after($1::text::xid8, $2, $3::text::xid8, $4) AS c
        ) AS w
        ORDER BY w.page_id, w.n DESC
        """,
        str(after[0]),
        after[1],
        str(below),
        SCANNED_AT_ONCE,
    )
    pages = {r["page_id"]: (r["xid"], r["seq"]) for r in rows}
    is_all = not rows or rows[0]["scanned"] < SCANNED_AT_ONCE
    return ChangedPages(pages, (below, 0), is_all, await feed(connection))


async def newest_place(connection: Connection) -> Place:
    """The place of the newest change that may be read."""
    row = await connection.fetchrow("SELECT c.xid::text::bigint AS xid, c.seq FROM newest_change() AS c")
    return (row["xid"], row["seq"]) if row else BEGINNING


async def held_seconds(connection: Connection) -> float:
    """For how long the oldest change that is held up by a transaction that goes on has been committed; 0 without."""
    seconds = await connection.fetchval(
        "SELECT extract(epoch FROM clock_timestamp() - c.changed_at)::double precision FROM first_held_change() AS c"
    )
    return max(float(seconds or 0), 0.0)


async def feed(connection: Connection) -> Feed:
    """Which feed this is; another one than before, and an empty one, where the database turns out to be restored.

    Must not be called inside a transaction that did anything else.
    """
    row = await connection.fetchrow(
        """
        SELECT
            f.epoch, f.dropped_xid::text::bigint AS xid, f.dropped_seq AS seq,
            f.identity = database_identity() AND f.written_by::xid = f.xmin AS is_ours
        FROM changes_feed AS f
        """
    )
    if row is None or not row["is_ours"]:
        return await _begin_anew(connection)
    return Feed(row["epoch"], (row["xid"], row["seq"]) if row["xid"] is not None else None)


async def _begin_anew(connection: Connection) -> Feed:
    """Give this database a feed of its own: the ids in the one that it has are another's, or were given twice."""
    async with connection.transaction():
        # two that find out at once: the second waits, and finds it done
        await connection.execute("LOCK TABLE changes_feed IN SHARE ROW EXCLUSIVE MODE")
        epoch = await connection.fetchval(
            """
            INSERT INTO changes_feed AS f (epoch, identity, written_by)
            VALUES (gen_random_uuid(), database_identity(), pg_current_xact_id())
            ON CONFLICT (is_only) DO UPDATE SET
                epoch = excluded.epoch, identity = excluded.identity, written_by = excluded.written_by,
                dropped_xid = NULL, dropped_seq = NULL
            WHERE f.identity <> excluded.identity OR f.written_by::xid <> f.xmin
            RETURNING f.epoch
            """
        )
        if epoch is not None:
            await connection.execute("TRUNCATE changes")
        else:
            epoch = await connection.fetchval("SELECT epoch FROM changes_feed")
    return Feed(epoch, None)


async def keep_changes(connection: Connection, *, today: date, retention_days: int) -> list[date]:
    """See that the feed is this database's own; make coming days' partitions, drop those past retention."""
    await feed(connection)
    return await keep_days(
        connection, TABLE, today=today, retention_days=retention_days, last_words=_note_what_is_dropped
    )


async def _note_what_is_dropped(connection: Connection, partition: str) -> None:
    await connection.execute(
        f"""
        UPDATE changes_feed AS f SET
            dropped_xid = c.xid, dropped_seq = c.seq, written_by = pg_current_xact_id()
        FROM (SELECT xid, seq FROM {partition} ORDER BY xid DESC, seq DESC LIMIT 1) AS c
        WHERE f.dropped_xid IS NULL OR (f.dropped_xid, f.dropped_seq) < (c.xid, c.seq)
        """
    )


async def forget_changes(connection: Connection, page_id: str) -> int:
    """Take out of the feed what it says of a Page, of the first day on which it says something; returns how much."""
    done = await connection.execute(
        """
        DELETE FROM changes AS c WHERE c.page_id = $1 AND c.kind <> 'page' AND c.day = (
            SELECT min(o.day) FROM changes AS o WHERE o.page_id = $1 AND o.kind <> 'page'
        )
        """,
        page_id,
    )
    return int(done.split()[-1])
