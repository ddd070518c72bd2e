"""A large mirror, made in bulk by Postgres itself, each row a function of its number alone.

A tenth of the messages are each conversation's first; of the others, which come in by time, half belong to one
conversation in about a hundred: so most are short and some are very long. Small on disk: ids of a few letters where
Facebook's have 90, texts of two sentences out of some thousands, no attachments and no journal.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from sql.migrate import migrate
from sql.pool import connect

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sql.upsert import Connection

FIRST_PAGE, FIRST_PSID = 100, 1_000_000
WRITERS = 2
WHILE_FILLED = {"fsync": "off", "max_wal_size": "'8GB'"}
LONG_ONES = 101  # one conversation in so many is a long one: a prime number, to have some in every Page
OFTEN, HALF_AS_OFTEN, SELDOM, RARE = "open", "customer", "spam", "complaint"
SHARES = {OFTEN: 5_000, HALF_AS_OFTEN: 2_500, SELDOM: 1_000, RARE: 10}  # of 10,000 conversations
COMMON_WORD, USUAL_WORD, RARE_WORD = "hello", "refund", "zebra"
WORD_IN_EVERY = {COMMON_WORD: 4, USUAL_WORD: 1_000, RARE_WORD: 100_000}  # so many messages
UNREAD_IN_EVERY, REACTION_IN_EVERY = 23, 50
SENTENCES, VOCABULARY = 20_000, 30_000
FIRST_NAMES = ("Anna", "Bình", "Carla", "Đức", "Emil", "Fatma", "Grace", "Hồng", "Ivan", "Julia", "Kofi", "Linh")
LAST_NAMES = ("Nguyễn", "Trần", "Müller", "Okafor", "Smith", "García", "Yildiz", "Rossi", "Larsen", "Phạm", "Novák")

# n is the number of a message, c of its conversation, h chance
_NUMBERS = """
    SELECT
        g.n, x.c, x.h, ({page} + x.c % {pages})::text AS page_id, ({psid} + x.c)::text AS psid, 'm_' || g.n AS mid,
        timestamptz '2026-03-01 12:00Z' - ({messages} - g.n) * interval '3 seconds' AS sent_at
    FROM generate_series({first}::bigint, {last}::bigint) AS g (n)
    CROSS JOIN LATERAL (SELECT hashint8extended(g.n, 7) & 4611686018427387903 AS h OFFSET 0) AS d
    CROSS JOIN LATERAL (
        SELECT
            d.h,
            CASE
                WHEN g.n <= {conversations} THEN g.n - 1
                WHEN d.h % 2 = 0 THEN d.h / 2 % (({conversations} + {long_ones} - 1) / {long_ones}) * {long_ones}
                ELSE d.h / 2 % {conversations}
            END AS c
    ) AS x
"""


class Scale(NamedTuple):
    """How large a mirror."""

    conversations: int = 1_000_000
    messages: int = 10_000_000
    pages: int = 20

    def numbers(self, first: int = 1, last: int | None = None) -> str:
        """Select what is known of messages, from one number to another."""
        given = {**self._asdict(), "long_ones": LONG_ONES, "page": FIRST_PAGE, "psid": FIRST_PSID}
        return _NUMBERS.format(first=first, last=last or self.messages, **given)

    def page(self, n: int) -> str:
        """The n-th Page, beginning anew after the last."""
        return str(FIRST_PAGE + n % self.pages)

    def conversation(self, n: int) -> tuple[str, str]:
        """The n-th conversation's key."""
        return self.page(n), str(FIRST_PSID + n)


async def make_mirror(dsn: str, scale: Scale) -> None:
    """Fill a database, unless it is filled already.

    Raises:
        ValueError: it is filled at another scale.

    """
    connection = await connect(dsn)
    try:
        if await connection.fetchval("SELECT to_regclass('bench_scale')") is None:
            await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")  # what was left half-made
            await migrate(connection)
            await _make(connection, dsn, scale)
            await connection.execute("CREATE TABLE bench_scale (conversations int, messages int, pages int)")
            await connection.execute("INSERT INTO bench_scale VALUES ($1, $2, $3)", *scale)
        made = [Scale(**row) for row in await connection.fetch("SELECT * FROM bench_scale")]
        if made != [scale]:
            raise ValueError(f"this folder holds a mirror of {made}")
        await migrate(connection)
    finally:
        await connection.close()


async def _make(connection: Connection, dsn: str, scale: Scale) -> None:
    for name, value in WHILE_FILLED.items():
        await connection.execute(f"ALTER SYSTEM SET {name} = {value}")
    await connection.execute(
        """
        SELECT pg_reload_conf();
        SET synchronous_commit = off; SET work_mem = '512MB'
        """
    )
    indexes = await connection.fetch(
        """
        SELECT indexname AS name, indexdef AS made_by FROM pg_indexes
        WHERE schemaname = 'public' AND indexname <> tablename || '_pkey'
        AND tablename IN ('messages', 'conversations', 'conversation_names', 'conversation_tags')
        """
    )
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    await connection.execute(
        f"""
        CREATE TABLE bench_texts AS
        SELECT s.n, (
            SELECT string_agg('w' || (power(hashint4extended(s.n * 8 + w, 0) / 9.3e18, 4) * {VOCABULARY})::int, ' ')
            FROM generate_series(0, s.n % 8) AS w
        ) AS text
        FROM generate_series(0, {SENTENCES} - 1) AS s (n);
        ALTER TABLE bench_texts ADD PRIMARY KEY (n);
        ANALYZE bench_texts
        """
    )
    parts = [(scale.messages * n // WRITERS + 1, scale.messages * (n + 1) // WRITERS) for n in range(WRITERS)]
    await _together(dsn, [_messages(scale, first, last) for first, last in parts])
    await _conversations(connection, scale)
    await _tags(connection)
    await connection.execute("DROP TABLE bench_texts")
    await _together(dsn, [index["made_by"] for index in sorted(indexes, key=lambda i: "messages" not in i["made_by"])])
    for name in WHILE_FILLED:
        await connection.execute(f"ALTER SYSTEM RESET {name}")
    await connection.execute("SELECT pg_reload_conf()")
    for command in ("VACUUM ANALYZE", "CHECKPOINT"):
        await connection.execute(command)


async def _together(dsn: str, statements: list[str]) -> None:
    """Run statements over several connections."""
    left = iter(statements)

    async def write() -> None:
        connection = await connect(dsn, server_settings={"synchronous_commit": "off", "maintenance_work_mem": "1GB"})
        try:
            for statement in left:
                await connection.execute(statement)
        finally:
            await connection.close()

    writers: list[Awaitable[None]] = [write() for _ in range(WRITERS)]
    await asyncio.gather(*writers)


def _messages(scale: Scale, first: int, last: int) -> str:
    words = " || ".join(f"CASE WHEN k.n % {n} = 0 THEN '{word} ' ELSE '' END" for word, n in WORD_IN_EVERY.items())
    text = f"{words} || {_sentence('k.h / 7')} || ' ' || {_sentence(f'k.h / {7 * SENTENCES}')}"
    return f"""
        INSERT INTO messages (
            page_id, mid, psid, direction, sent_at, sent_at_rank, original, webhook_seen_at, seen_batch, changed_batch,
            updated_at
        )
        SELECT
            k.page_id, k.mid, k.psid, CASE WHEN k.h % 3 = 0 THEN 'outbound' ELSE 'inbound' END, k.sent_at, 0,
            jsonb_build_object('text', {text})
                || CASE WHEN k.h % 3 = 0 THEN jsonb_build_object('app_id', '15177764') ELSE '{{}}' END,
            k.sent_at + interval '1 second', 1, 1, k.sent_at
        FROM ({scale.numbers(first, last)}) AS k
    """


def _sentence(number: str) -> str:
    return f"(SELECT t.text FROM bench_texts AS t WHERE t.n = {number} % {SENTENCES})"


async def _conversations(connection: Connection, scale: Scale) -> None:
    """Make conversations, each with the last of its messages, and reactions."""
    await connection.execute(
        f"""
        INSERT INTO conversations (
            page_id, psid, platform, graph, read_watermark, last_message_mid, last_message_at, last_message_direction,
            snippet, created_at, updated_at
        )
        SELECT
            m.page_id, m.psid, 'messenger',
            jsonb_build_object(
                'name', jsonb_build_array(
                    e.ms, e.ms, ($1::text[])[1 + k.c % $3] || ' ' || ($2::text[])[1 + k.c / 7 % $4]
                ),
                'unread_count', jsonb_build_array(e.ms, e.ms, (k.c % {UNREAD_IN_EVERY} = 0)::int)
            ),
            CASE WHEN k.c % 2 = 0 THEN m.sent_at END, m.mid, m.sent_at, m.direction, m.text, m.sent_at, m.sent_at
        FROM (SELECT n.page_id, n.c, max(n.n) AS n FROM ({scale.numbers()}) AS n GROUP BY 1, 2) AS k
        JOIN messages AS m ON m.page_id = k.page_id AND m.mid = 'm_' || k.n
        CROSS JOIN LATERAL (SELECT (extract(epoch FROM m.sent_at) * 1000)::bigint AS ms) AS e
        """,
        FIRST_NAMES,
        LAST_NAMES,
        len(FIRST_NAMES),
        len(LAST_NAMES),
    )
    await connection.execute(
        f"""
        INSERT INTO conversation_names SELECT page_id, psid, name FROM conversations;
        INSERT INTO conversation_threads (page_id, thread_id, psid, created_at)
        SELECT page_id, 't_' || psid, psid, created_at FROM conversations;
        INSERT INTO message_reactions (page_id, mid, actor, reaction, emoji, is_removed, reacted_at, updated_at)
        SELECT m.page_id, m.mid, m.psid, 'love', '❤️', false, m.sent_at, m.sent_at
        FROM generate_series({REACTION_IN_EVERY}, {scale.messages}, {REACTION_IN_EVERY}) AS k (n)
        JOIN ({scale.numbers()}) AS m ON m.n = k.n
        """
    )


async def _tags(connection: Connection) -> None:
    """Put each tag on its share of the conversations."""
    await connection.execute(
        """
        WITH t AS (
            INSERT INTO tags (name) SELECT n FROM unnest($1::text[]) AS n RETURNING id, name
        )
        INSERT INTO conversation_tags (page_id, psid, tag_id, active_at)
        SELECT c.page_id, c.psid, t.id, span_of(c.last_message_at)
        FROM t JOIN unnest($1::text[], $2::int[]) AS s (name, share) ON s.name = t.name
        JOIN conversations AS c ON abs(hashtext(c.psid || t.name)::bigint) % 10000 < s.share
        """,
        list(SHARES),
        list(SHARES.values()),
    )
