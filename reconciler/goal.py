"""How far a run has to read: the stop rules of its kind.

Essay: why the watermark and `synced_to` can be trusted. Facebook cannot be asked "what changed since"; its list of
conversations has no time paging and no documented order, only, in practice, newest activity first. So a run walks the
list from the top and stops after 25 conversations in a row that are older than the Page's watermark minus the overlap.
That the list is in order is checked as it is read: one violation, and the run walks to the end instead.

The watermark alone would lose messages. While we walk, a conversation we have not reached may get a message and jump
to the top, above our cursor; the next run sees it there. But by then its older messages, those between the last run
and the jump, lie behind the stop time of a rule that asks only for what is newer than the watermark. So every thread
has its own `synced_to`: up to where its messages are stored without a gap. It is set only in the transaction that
stores the last message page it needed, and a thread's messages are read down to it, however far that is behind the
watermark; to the beginning when there is none. A thread that keeps failing keeps its `synced_to`, is tried by id in
the next run, and holds nobody back.

The watermark moves when a run has completed: its list ended, and no thread is left. It moves to the newest
`updated_time` in the list, by Graph's clock, and never past the `Date` of the run's first answer: what comes in while
we walk is for the next run. All times are whole seconds, so every comparison keeps the equal second, and repeats are
harmless.

A first load lists the whole Page with recent messages first and reads on afterwards, which may take hours. It gives
way to incremental runs: these stop where its list began, and raise what its row says of a thread (`Unfinished.reached`)
instead of a `synced_to` that does not exist yet. When it ends early, those threads are tried by id. An audit within a
budget of calls takes nothing over like that: they may be used up before it has read what it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from reconciler.graph.payload import MessageNode
    from sql.threads import Known


class Goal(NamedTuple):
    """What a run is to reach. `listed_to` is up to where earlier runs have listed the Page, None for nowhere."""

    kind: str
    since: datetime | None
    until: datetime | None
    listed_to: datetime | None
    overlap: timedelta

    @property
    def stop(self) -> datetime | None:
        """Conversations older than this are of no interest; None: all are."""
        if self.kind == "backfill":
            return self.since
        if self.kind != "incremental" or self.listed_to is None:
            return None
        return self.listed_to - self.overlap

    @property
    def is_load(self) -> bool:
        """Whether this run lists all of the Page, so that reading older messages may take hours."""
        return self.stop is None and self.kind != "audit"

    @property
    def asks_reactions(self) -> bool:
        """Whether messages are read with their reactions: these don't move `updated_time`, so only whole walks do."""
        return self.kind in {"full", "audit"}

    @property
    def compares(self) -> bool:
        """Whether what Graph lists is compared with what is stored."""
        return self.kind == "audit"

    def was_missed(self, updated_time: datetime, known: Known) -> bool:
        """Whether a listed thread was not read as far as it goes, though an earlier run should have seen it so."""
        if self.listed_to is None or updated_time > self.listed_to or known.has_failed:
            return False
        return known.stored_to is None or known.stored_to < updated_time

    def target(self, stored_to: datetime | None) -> datetime | None:
        """Down to where a thread's messages are needed; None for the beginning."""
        if self.kind == "backfill":
            return self.since
        if self.kind != "incremental" or stored_to is None:
            return None
        target = stored_to - self.overlap
        return min(target, self.stop) if self.stop is not None else target

    def reached(self, updated_time: datetime) -> datetime | None:
        """What `synced_to` becomes when a thread listed with this time was read; None to leave it."""
        return None if self.kind == "backfill" else updated_time

    def is_settled(self, updated_time: datetime, known: Known) -> bool:
        """Whether a listed thread has nothing for this run: older than the stop time, and read to its end before."""
        if self.stop is None or updated_time >= self.stop:
            return False
        if self.kind == "backfill":
            return True
        return known.stored_to is not None and known.stored_to >= updated_time and not known.has_failed

    def counted(self, messages: list[MessageNode]) -> int:
        """How many of the messages read to report: a backfill reads more than its window."""
        if self.kind != "backfill" or self.since is None:
            return len(messages)
        times = [m.created_time for m in messages if m.created_time is not None]
        return sum(self.since <= at and (self.until is None or at < self.until) for at in times)
