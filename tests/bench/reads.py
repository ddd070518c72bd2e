"""How long reads of a large mirror take, beside bare probes of a primary key and beside the plain way to write them.

A read is what the API asks of Postgres, with all that it gives back; each time at another depth or of another Page. The
probe that follows looks up by their keys, in one statement, the very rows that the read gave: it finds them in memory.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop
from rich.console import Console

from sql import embedded
from sql.conversation_lists import Wanted, list_conversations
from sql.conversations import show_conversation
from sql.messages import list_messages
from sql.pool import connect
from tests.bench import cache
from tests.bench.mirror import (
    COMMON_WORD,
    HALF_AS_OFTEN,
    LONG_ONES,
    OFTEN,
    RARE,
    RARE_WORD,
    SELDOM,
    USUAL_WORD,
    Scale,
    make_mirror,
)
from tests.bench.plain import Plain
from tests.bench.serving import data_folder
from tests.bench.table import Verdict, print_reads, print_verdicts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from sql.conversation_lists import After
    from sql.upsert import Connection

    Rows = Sequence[Any]
    Reading = Callable[[int], Awaitable[Rows]]

OURS = "mirror"
LIMIT = 51  # a page of 50, and whether there is another
FEW_TIMES = 3
TAGS = "2 tags but 1"
LISTS = {
    "all": Wanted(),
    "unread": Wanted(unread=True),
    "1 tag": Wanted(include_tags=(OFTEN,)),
    TAGS: Wanted(include_tags=(OFTEN, HALF_AS_OFTEN), exclude_tags=(SELDOM,)),
    "a common and a rare tag": Wanted(include_tags=(OFTEN, RARE)),
    "any of 2 tags but 1": Wanted(include_tags=(OFTEN, HALF_AS_OFTEN), exclude_tags=(SELDOM,), match_any=True),
}
SEARCHES = {
    "a rare word": RARE_WORD,
    "a usual word": USUAL_WORD,
    "a common word": COMMON_WORD,
    "two words": f"{COMMON_WORD} {USUAL_WORD}",
    "a name": "phạm kofi",
}
DEEP = 200  # messages, of a conversation that has some hundreds
FULL = Scale()
LIST_OVER_PROBE, MESSAGES_OVER_PROBE = 15, 5

_PROBES = {
    "psid": """
        SELECT
            c.page_id, c.psid, c.platform, c.name, c.updated_time, c.unread_count, c.message_count, c.can_reply,
            c.delivered_watermark, c.read_watermark, c.last_message_mid, c.last_message_at, c.last_message_direction,
            c.snippet, c.is_unread, c.created_at, c.updated_at
        FROM unnest($1::text[], $2::text[]) AS k (page_id, psid)
        JOIN conversations AS c ON c.page_id = k.page_id AND c.psid = k.psid
    """,
    "mid": """
        SELECT
            m.page_id, m.mid, m.psid, m.thread_id, m.direction, m.app_id, m.sent_at, m.text, m.attachments, m.reply_to,
            m.is_deleted, m.deleted_at, m.first_seen_via, m.first_seen_at, m.webhook_seen_at, m.sync_seen_at,
            m.updated_at
        FROM unnest($1::text[], $2::text[]) AS k (page_id, mid)
        JOIN messages AS m ON m.page_id = k.page_id AND m.mid = k.mid
    """,
}


class Read(NamedTuple):
    """A read, by what, how many rows it gave; milliseconds in the median, and those of probes for the same rows."""

    what: str
    by: str
    rows: int
    ms: float
    probe_ms: float
    is_page: bool

    @property
    def over(self) -> float:
        """How many times as long as its rows by primary key."""
        return self.ms / self.probe_ms


class Options(NamedTuple):
    """How much is measured, and where the mirror is kept: nowhere, if no folder is given."""

    scale: Scale = Scale()
    folder: Path | None = None
    times: int = 20
    cache: cache.Options = cache.Options()


def run(options: Options) -> bool:
    """Measure, print, and tell whether all targets hold."""
    with data_folder(options.folder) as folder:
        database = embedded.start(folder)
        try:
            reads = uvloop.run(_measured(database.dsn, options))
            scale = options.scale
            verdicts = judged(reads, scale)
            note = "" if verdicts else ": too small a mirror to judge by"
            print_reads(f"{scale.conversations:,} conversations, {scale.messages:,} messages{note}", reads)
            if verdicts:
                print_verdicts(verdicts)
            cache.print_caches(cache.measured(folder, scale, options.cache))
        finally:
            database.stop()
    return all(v.holds for v in verdicts)


async def _measured(dsn: str, options: Options) -> list[Read]:
    began = time.perf_counter()
    await make_mirror(dsn, options.scale)
    connection = await connect(dsn)
    try:
        size = await connection.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
        words = f"a mirror of {size}, ready after {time.perf_counter() - began:.0f} s"
        Console().print(words, highlight=False)
        return await Reads(connection, options.scale, times=options.times).run()
    finally:
        await connection.close()


class Reads:
    """What is read, and how often."""

    def __init__(self, connection: Connection, scale: Scale, *, times: int) -> None:
        self._connection, self._scale, self._times = connection, scale, times
        self._plain = Plain(connection, LIMIT)
        self._deep: list[After] = []
        self._long: list[tuple[str, str]] = []
        self.reads: list[Read] = []

    async def run(self) -> list[Read]:
        """Measure all."""
        await self._choose()
        for of_a_page in (False, True):
            where = " of a Page" if of_a_page else ""
            for name, wanted in LISTS.items():
                await self._lists(f"list{where}, {name}", wanted, of_a_page=of_a_page)
            await self._tagged(f"list{where}, {TAGS}", of_a_page=of_a_page)
        await self._one_and_its_messages()
        for of_a_page in (False, True):
            where = " of a Page" if of_a_page else ""
            for name, words in SEARCHES.items():
                await self._searches(f"search{where}, {name}", words, of_a_page=of_a_page)
        return self.reads

    async def _choose(self) -> None:
        """Choose places in the middle third of the list of all, and conversations with many messages."""
        rows = await self._connection.fetch(
            """
            SELECT p.last_message_at, p.page_id, p.psid
            FROM (
                SELECT c.*, row_number() OVER (ORDER BY c.last_message_at) AS n, count(*) OVER () AS number
                FROM conversations AS c
            ) AS p
            WHERE p.n BETWEEN p.number / 3 AND p.number * 2 / 3 ORDER BY hashtext(p.psid) LIMIT $1
            """,
            self._times,
        )
        self._deep = [(row[0], row[1], row[2]) for row in rows]
        step = self._scale.conversations // LONG_ONES // self._times * LONG_ONES
        self._long = [self._scale.conversation(n * step) for n in range(self._times)]

    async def _lists(self, what: str, wanted: Wanted, *, of_a_page: bool) -> None:
        async def first(n: int) -> Rows:
            return await self._list(self._of(wanted, n, of_a_page=of_a_page))

        async def deep(n: int) -> Rows:
            after = self._deep[n]
            return await self._list(wanted._replace(page_id=after[1] if of_a_page else None), after)

        await self._measure(what, first)
        await self._measure(f"{what}, deep", deep)

    async def _tagged(self, what: str, *, of_a_page: bool) -> None:
        """Count, and read in the plain way: the first page, and one in the middle."""
        wanted = LISTS[TAGS]

        async def counted(n: int) -> Rows:
            return await self._list(self._of(wanted, n, of_a_page=of_a_page), count=True)

        await self._measure(f"{what}, and exact count", counted, times=FEW_TIMES, is_page=False)
        one = self._of(wanted, 0, of_a_page=of_a_page)
        total = (await list_conversations(self._connection, one, after=None, limit=1, count=True)).total or 0
        for by, read in (("OFFSET", self._plain.by_offset), ("ids loaded", self._plain.by_ids)):
            for name, offset in (("", 0), (", deep", total // 2)):

                async def plain(_n: int, read: Any = read, offset: int = offset) -> Rows:
                    return await read(one, offset)  # type: ignore[no-any-return]

                await self._measure(f"{what}{name}", plain, by=by, times=FEW_TIMES, is_page=False)

    async def _one_and_its_messages(self) -> None:
        middle = [(await self._plain.messages(*key, offset=DEEP))[0] for key in self._long]

        async def one(n: int) -> Rows:
            return [await show_conversation(self._connection, *self._long[n])]

        async def first(n: int) -> Rows:
            return await list_messages(self._connection, *self._long[n], after=None, limit=LIMIT)

        async def deep(n: int) -> Rows:
            after = middle[n]["sent_at"], middle[n]["mid"]
            return await list_messages(self._connection, *self._long[n], after=after, limit=LIMIT)

        async def plain(n: int) -> Rows:
            return await self._plain.messages(*self._long[n], offset=DEEP)

        await self._measure("one conversation", one)
        await self._measure("messages", first)
        await self._measure("messages, deep", deep)
        await self._measure("messages, deep", plain, by="OFFSET", is_page=False)

    async def _searches(self, what: str, words: str, *, of_a_page: bool) -> None:
        async def first(n: int) -> Rows:
            return await self._list(self._of(Wanted(search=words), n, of_a_page=of_a_page))

        async def counted(n: int) -> Rows:
            return await self._list(self._of(Wanted(search=words), n, of_a_page=of_a_page), count=True)

        async def like(n: int) -> Rows:
            return await self._plain.like(words, self._scale.page(n) if of_a_page else None)

        await self._measure(what, first, times=FEW_TIMES, is_page=False)
        await self._measure(f"{what}, and exact count", counted, times=FEW_TIMES, is_page=False)
        if words == USUAL_WORD:
            await self._measure(what, like, by="LIKE", times=1, is_page=False)

    def _of(self, wanted: Wanted, n: int, *, of_a_page: bool) -> Wanted:
        return wanted._replace(page_id=self._scale.page(n) if of_a_page else None)

    async def _list(self, wanted: Wanted, after: After | None = None, *, count: bool = False) -> Rows:
        return (await list_conversations(self._connection, wanted, after=after, limit=LIMIT, count=count)).rows

    async def _measure(
        self, what: str, read: Reading, *, by: str = OURS, times: int | None = None, is_page: bool = True
    ) -> None:
        """Read once to get used to it, then so many times, each followed by a probe for the same rows."""
        rows = await read(0)
        took, probed = [], []
        for n in range(min(times or self._times, self._times)):
            began = time.perf_counter()
            rows = await read(n)
            read_at = time.perf_counter()
            await self._probe(rows)
            took.append(read_at - began)
            probed.append(time.perf_counter() - read_at)
        self.reads.append(Read(what, by, len(rows), median(took) * 1000, median(probed) * 1000, is_page))

    async def _probe(self, rows: Rows) -> None:
        key = "mid" if rows and "mid" in rows[0].keys() else "psid"  # noqa: SIM118 - a record is none of its keys
        found = await self._connection.fetch(_PROBES[key], [row["page_id"] for row in rows], [row[key] for row in rows])
        if len(found) != len(rows):
            raise RuntimeError(f"{len(rows)} rows were read, and {len(found)} found by their keys")


def judged(reads: Sequence[Read], scale: Scale) -> list[Verdict]:
    """Compare pages of lists and of messages with their rows by primary key; of a smaller mirror it says little."""
    verdicts: list[Verdict] = []
    if scale.conversations < FULL.conversations or scale.messages < FULL.messages:
        return verdicts
    for kind, most in (("list", LIST_OVER_PROBE), ("messages", MESSAGES_OVER_PROBE)):
        worst = max((r for r in reads if r.is_page and r.what.startswith(kind)), key=lambda r: r.over)
        claim = f"a page of {kind}: <= {most} x its rows by primary key"
        verdicts.append(Verdict(claim, f"at most {worst.over:.1f} x: {worst.what}", worst.over <= most))
    return verdicts
