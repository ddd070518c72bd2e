"""What tests of audits share: audit, and read what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sql.changes import newest_place, read_changes
from tests.horizon import all_is_told

if TYPE_CHECKING:
    import asyncpg

    from tests.reconciler.stage import Stage

LONG = 60  # messages: more than are nested in a list
CONVERSATIONS = ("conversations_verified", "conversations_repaired", "conversations_unverifiable")
MESSAGES = ("messages_restored", "messages_changed", "messages_missing")


async def states(stage: Stage) -> dict[str, str | None]:
    rows = await stage.rows("SELECT thread_id, audit_state FROM conversation_threads")
    return {r["thread_id"]: r["audit_state"] for r in rows}


async def message(stage: Stage, mid: str) -> asyncpg.Record:
    return await stage.one("SELECT * FROM messages WHERE mid = $1", mid)


async def audit(stage: Stage) -> Any:
    """Audit the Page some time later; returns what was found."""
    stage.clock.advance(60)
    run = await stage.sync("audit")
    assert (run["state"], run["error"]) == ("succeeded", None)
    return run["audit"]


async def changed_by_audit(stage: Stage) -> set[str]:
    """Audit likewise; returns the keys that the feed of changes tells of then."""
    async with stage.pool.acquire() as connection:
        await all_is_told(connection)
        place = await newest_place(connection)
    await audit(stage)
    async with stage.pool.acquire() as connection:
        await all_is_told(connection)
        read = await read_changes(connection, place, limit=1000)
    return {told.change.key for told in read.changes}


def counts(found: Any, *names: str) -> list[int]:
    return [found[name] for name in names]


async def absent(stage: Stage) -> dict[str, bool]:
    """The messages that were absent, and whether they are missing by now."""
    rows = await stage.rows("SELECT mid, missing_in_graph_since FROM messages WHERE absent_since IS NOT NULL")
    return {r["mid"]: r["missing_in_graph_since"] is not None for r in rows}
