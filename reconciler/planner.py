"""Plans a Page's next sync when a run has ended: what is known of the Page, put to the rule of `due`."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.budget import UNTIL_LEARNT, Budget, learnt
from reconciler.due import Facts, next_due
from sql.pace import NextSync, read_habits

if TYPE_CHECKING:
    from datetime import timedelta

    from reconciler.graph.client import GraphClient
    from sql.leases import Run
    from sql.upsert import Connection


class Planner:
    """Plans with the configured interval; `client` knows how much of each Page's limit Meta says is used."""

    def __init__(self, interval: timedelta, client: GraphClient) -> None:
        self._interval, self._client = interval, client

    async def plan(
        self, connection: Connection, run: Run, state: str, *, api_calls: int, at_least: timedelta
    ) -> NextSync:
        """Tell when the Page of a run that ends in `state` is due; `api_calls` are those not stored yet."""
        now = datetime.now(UTC)
        habits = await read_habits(connection, run)
        calls = habits.calls + api_calls
        percent = self._client.percent_used.get(run.page_id, 0.0)
        daily = learnt(habits.budget, calls, percent)
        facts = Facts(
            run.page_id,
            self._interval,
            interval=habits.interval,
            has_repaired=habits.has_repaired or (False if state == "succeeded" else None),
            is_silent=habits.is_silent,
            budget=Budget(
                daily if daily is not None else UNTIL_LEARNT,
                calls if daily is not None else habits.incremental_calls,
                percent,
                is_learnt=daily is not None,
            ),
            cost=max(habits.incremental_calls / max(habits.incremental_runs, 1), 1.0),
            at_least=at_least,
        )
        due = next_due(facts, now=now, jitter=random.random())  # noqa: S311 - no secret
        return NextSync(due.at - now, due.interval, daily, calls, percent or None)
