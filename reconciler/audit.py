"""What an audit adds to a walk: each thread's messages, as Graph lists them, are compared with what is stored.

An audit reads as a full sync does, and whatever it reads goes through the one upsert: that is the repair. Here it is
told what was repaired, what is right, and what can't be known, in the transaction of each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.audit_threads import Found, conclude_listings, keep_listings, read_seen
from sql.audit_turns import drop_unaudited, note_tried
from sql.audit_unlisted import mark_unlisted
from sql.audits import Findings, add_findings, put_coverage
from sql.rows import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from reconciler.steps import Step
    from sql.audit_threads import Listing, Seen
    from sql.leases import Run
    from sql.upsert import Connection


class Share:
    """How many of a Page's calls a run may make; `calls` counts those of this process."""

    def __init__(self, run: Run, calls: Callable[[], int]) -> None:
        self._budget, self._calls = run.call_budget, calls
        self._before = run.api_calls - calls()

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._budget is not None

    def is_spent(self, calls: int = 1) -> bool:
        """Whether so many calls are not left."""
        return self._budget is not None and self._before + self._calls() + calls > self._budget

    def is_half_spent(self) -> bool:
        """Whether half of them are made: the list may not use up what single threads need."""
        return self._budget is not None and self._before + self._calls() >= (self._budget + 1) // 2


class Auditor:
    """Records what the steps of one audit find."""

    def __init__(self, run: Run) -> None:
        self._page_id, self._run_id = run.page_id, run.id

    async def look(self, connection: Connection, step: Step) -> dict[str, Seen]:
        """What readers see of the step's messages; to be asked before they are stored, and after."""
        mids = {mid for listing in step.listings for mid in listing.mids}
        return await read_seen(connection, self._page_id, mids) if mids else {}

    async def compare(self, connection: Connection, step: Step, before: dict[str, Seen]) -> dict[str, Found]:
        """Compare what was seen before the step's rows were stored with what is now; conclude threads that end.

        Returns what was found of each thread, to `keep` of those that go on.
        """
        after = await self.look(connection, step)
        sent_at = {row.mid: row.sent_at for row in step.rows if isinstance(row, Message)}
        found = {listing.thread_id: _found(listing, before, after, sent_at) for listing in step.listings}
        ended = [listing for listing in step.listings if listing.ends]
        outcomes = await conclude_listings(connection, self._page_id, self._run_id, ended, found)
        await note_tried(connection, self._page_id, self._run_id, step.refused, state="unverifiable")
        states = [outcome.state for outcome in outcomes]
        findings = Findings(
            states.count("verified"),
            states.count("repaired"),
            states.count("unverifiable") + len(step.refused),
            sum(of_thread.restored for of_thread in found.values()),
            sum(of_thread.changed for of_thread in found.values()),
            sum(outcome.missing for outcome in outcomes),
        )
        if any(findings):
            await add_findings(connection, self._run_id, findings)
        return found

    async def keep(self, connection: Connection, step: Step, found: dict[str, Found]) -> None:
        """Remember what was listed of threads that go on, and which were tried in vain; sum up when the audit closes.

        Must be called once the step's unfinished threads are stored.
        """
        unended = [listing for listing in step.listings if not listing.ends]
        await keep_listings(connection, self._page_id, self._run_id, unended, found)
        await note_tried(connection, self._page_id, self._run_id, [thread_id for thread_id, _ in step.failed])
        if step.closes:
            if step.listed_from is not None:
                missing = await mark_unlisted(connection, self._page_id, step.listed_from)
                await add_findings(connection, self._run_id, Findings(messages_missing=missing))
            await drop_unaudited(connection, self._page_id, self._run_id)
            await put_coverage(connection, self._page_id, self._run_id)


def _found(
    listing: Listing, before: Mapping[str, Seen], after: Mapping[str, Seen], sent_at: Mapping[str, datetime | None]
) -> Found:
    """What a page of a thread brought; what was just sent may be on its way by webhook, and is no finding."""
    restored = changed = 0
    for mid in set(listing.mids) & after.keys():
        if mid in before:
            changed += not is_same(before[mid], after[mid])
        else:
            at = sent_at.get(mid)
            restored += at is not None and at < listing.observed_at
    return Found(restored, changed)


def is_same(a: Seen, b: Seen) -> bool:
    """Whether readers saw the same: Graph gives a reaction's name or its emoji, webhooks give both."""
    if a[:3] != b[:3] or len(a.reactions) != len(b.reactions):
        return False
    return all(
        of_a == of_b and (name_a == name_b or (emoji_a is not None and emoji_a == emoji_b))
        for (of_a, name_a, emoji_a), (of_b, name_b, emoji_b) in zip(a.reactions, b.reactions, strict=True)
    )
