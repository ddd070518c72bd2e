"""What tests of runs as rows share: ask for one, claim it, take a step, end it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sql.cooldowns import cool_down
from sql.leases import Progress, checkpoint, claim_run, finish_run
from sql.pace import NextSync
from sql.sync_runs import enqueue_run

if TYPE_CHECKING:
    import asyncpg

    from sql.leases import Run
    from sql.upsert import Connection

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SOON = timedelta(seconds=300)


async def ask(connection: Connection, kind: str = "incremental", page_id: str = "1") -> int:
    return await enqueue_run(connection, page_id, kind, requested_by="api")


async def ask_window(connection: Connection, since: datetime, until: datetime | None) -> int:
    return await enqueue_run(connection, "1", "backfill", requested_by="api", since=since, until=until)


async def claim(connection: Connection, holder: str = "worker") -> Run:
    run = await claim_run(connection, holder)
    assert run is not None
    return run


async def step(connection: Connection, run: Run, *, is_crowded: bool = False, **progress: object) -> bool:
    made = Progress(**progress)  # type: ignore[arg-type]
    return await checkpoint(connection, run, {"list": {}}, made, is_crowded=is_crowded)


async def end(connection: Connection, run: Run, state: str = "succeeded") -> None:
    await finish_run(connection, run, state, error=None, api_calls=0, next_sync=NextSync(SOON))


async def row(connection: Connection, run_id: int) -> asyncpg.Record:
    found = await connection.fetchrow("SELECT * FROM sync_runs WHERE id = $1", run_id)
    assert found is not None
    return found


async def expire(connection: Connection) -> None:
    await connection.execute(
        "UPDATE facebook_pages SET lease_until = now() - interval '1 second' WHERE lease_until > now()"
    )


async def cool(connection: Connection, scope: str, wait: timedelta | None = timedelta(minutes=1)) -> datetime:
    first, longest = timedelta(seconds=5), timedelta(seconds=30)
    return await cool_down(connection, scope, "a reason", wait=wait, first=first, longest=longest)
