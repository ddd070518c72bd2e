"""What the database tells of how the mirror does, for `/metrics`: small numbers, whatever the number of Pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sql.changes import held_seconds

if TYPE_CHECKING:
    from sql.upsert import Connection


class Numbers(NamedTuple):
    """`pages`: by state. `runs`: that wait or go on, by (kind, state). Of active Pages, by id, only the first so many:

    `lag`, seconds since the last sync that succeeded (or since the Page was added), and `budget`, which share of what
    the Page is good for in a day was called in the last 24 hours; `failing`, of those that have any, how many
    conversations could not be read when its last run ended. `erasures`: persons the journal may still hold;
    `page_erasures`: Pages being erased; `unmatched`: requests that a person's data go, of which Facebook does not tell
    whose they are; `held_changes`: seconds for which the oldest change has waited for a transaction that goes on.
    """

    pages: dict[str, int]
    runs: dict[tuple[str, str], int]
    lag: dict[str, float]
    budget: dict[str, float]
    failing: dict[str, float]
    erasures: int
    page_erasures: int
    unmatched: int
    held_changes: float = 0.0


async def read_numbers(connection: Connection, *, most: int) -> Numbers:
    """Read them; of Pages at most so many, those that lag the most and those that have the least left."""
    pages = await connection.fetch(
        "SELECT state, count(*) AS pages FROM facebook_pages WHERE state <> 'removed' GROUP BY state"
    )
    runs = await connection.fetch(
        "SELECT kind, state, count(*) AS runs FROM sync_runs WHERE state IN ('queued', 'running') GROUP BY kind, state"
    )
    lag = await connection.fetch(
        """
        SELECT page_id, extract(epoch FROM now() - COALESCE(last_synced_at, created_at))::double precision AS seconds
        FROM facebook_pages WHERE state = 'active'
        ORDER BY COALESCE(last_synced_at, created_at), page_id LIMIT $1
        """,
        most,
    )
    budget = await connection.fetch(
        """
        SELECT page_id, calls_last_day::double precision / daily_call_budget AS share
        FROM facebook_pages WHERE state = 'active' AND daily_call_budget > 0
        ORDER BY share DESC, page_id LIMIT $1
        """,
        most,
    )
    failing = await connection.fetch(
        """
        SELECT page_id, failing_conversations FROM facebook_pages WHERE state = 'active' AND failing_conversations > 0
        ORDER BY failing_conversations DESC, page_id LIMIT $1
        """,
        most,
    )
    open_ends = await connection.fetchrow(
        """
        SELECT
            (SELECT count(*) FROM erasures WHERE journal_done_at IS NULL),
            (SELECT count(*) FROM page_erasures WHERE done_at IS NULL),
            (SELECT count(*) FROM facebook_requests WHERE kind = 'data_deletion' AND state = 'unmatched')
        """
    )
    return Numbers(
        {row["state"]: row["pages"] for row in pages},
        {(row["kind"], row["state"]): row["runs"] for row in runs},
        {row["page_id"]: max(row["seconds"], 0.0) for row in lag},
        {row["page_id"]: row["share"] for row in budget},
        {row["page_id"]: float(row["failing_conversations"]) for row in failing},
        *(open_ends or (0, 0, 0)),
    )._replace(held_changes=await held_seconds(connection))
