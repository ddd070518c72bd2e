"""Whatever is asked for, a list holds what a reader of all rows would pick, in the same order, page by page."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from sql.conversation_lists import FEW, LOOKED_AT, Wanted, list_conversations
from sql.pool import connect
from tests.bench.plain import Plain
from tests.conftest import new_database
from tests.sql.explainer import LOOKED_UP, Explainer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sql.upsert import Connection

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGES, CONVERSATIONS = ("1", "2", "30"), 400
TAGS = ("often", "half", "seldom", "once", "never")
SHARES = (0.7, 0.5, 0.05, 0.003, 0.0)
WORDS = ("hello", "Hellas", "order", "größe", "42", "你好世界")
NAMES = ("Anna Lind", "Ann O'Hara", "Bo", "สมชาย ใจดี", None)
UNSPACED = ("世界", "ชาย")  # found anywhere


class Row(NamedTuple):
    """A conversation as a reader of all rows knows it."""

    page_id: str
    psid: str
    at: datetime
    tags: frozenset[str]
    is_unread: bool
    texts: tuple[str, ...]
    name: str | None

    @property
    def place(self) -> tuple[datetime, str, str]:
        return self.at, self.page_id, self.psid


def has(row: Row, words: str) -> bool:
    wanted = words.lower().replace("'", " ").split()
    texts = [text.lower().replace("'", " ").split() for text in (*row.texts, *([row.name] if row.name else []))]
    return any(
        all(any(word.startswith(w) or (w in UNSPACED and w in word) for word in text) for w in wanted) for text in texts
    )


def picked(rows: list[Row], wanted: Wanted) -> list[Row]:
    found = [
        row
        for row in rows
        if (wanted.page_id is None or row.page_id == wanted.page_id)
        and (
            not wanted.include_tags
            or (any if wanted.match_any else all)(tag in row.tags for tag in wanted.include_tags)
        )
        and not row.tags & set(wanted.exclude_tags)
        and (wanted.unread is None or row.is_unread == wanted.unread)
        and (wanted.updated_from is None or row.at >= wanted.updated_from)
        and (wanted.updated_to is None or row.at < wanted.updated_to)
        and (wanted.search is None or has(row, wanted.search))
    ]
    return sorted(found, key=lambda row: row.place, reverse=True)


@pytest.fixture
async def rows(connection: Connection) -> list[Row]:
    """Conversations of three Pages, some of which spoke at one instant, and many within ten minutes."""
    dice = random.Random(7)
    made = [
        Row(
            dice.choice(PAGES),
            f"p{n}",
            NOON - timedelta(seconds=dice.choice((0, n, n * 60, dice.randrange(10**6)))),
            frozenset(tag for tag, share in zip(TAGS, SHARES, strict=True) if dice.random() < share),
            dice.random() < 0.2,
            tuple(" ".join(dice.sample(WORDS, dice.randrange(4))) for _ in range(1 + n % 3)),
            dice.choice(NAMES),
        )
        for n in range(CONVERSATIONS)
    ]
    await store(connection, made)
    return made


async def store(connection: Connection, rows: list[Row]) -> None:
    await connection.executemany("INSERT INTO tags (name) VALUES ($1)", [(tag,) for tag in TAGS])
    await connection.executemany(
        """
        INSERT INTO conversations (
            page_id, psid, platform, graph, last_message_mid, last_message_at, last_message_direction,
            created_at, updated_at
        )
        VALUES ($1, $2, 'messenger', $3, 'm', $4, $5, now(), now())
        """,
        [
            (
                r.page_id,
                r.psid,
                {"name": [1, 1, r.name]} if r.name else None,
                r.at,
                ("outbound", "inbound")[r.is_unread],
            )
            for r in rows
        ],
    )
    await connection.executemany(
        "INSERT INTO conversation_names (page_id, psid, name) VALUES ($1, $2, $3)",
        [(r.page_id, r.psid, r.name) for r in rows if r.name],
    )
    await connection.executemany(
        """
        INSERT INTO conversation_tags (page_id, psid, tag_id, active_at)
        SELECT $1, $2, id, span_of($4) FROM tags WHERE name = $3
        """,
        [(r.page_id, r.psid, tag, r.at) for r in rows for tag in r.tags],
    )
    await connection.executemany(
        """
        INSERT INTO messages (
            page_id, mid, psid, sent_at, sent_at_rank, original, seen_batch, changed_batch, updated_at
        )
        VALUES ($1, $2, $3, $4, 0, $5, 1, 1, now())
        """,
        [
            (r.page_id, f"m_{r.psid}_{n}", r.psid, r.at - timedelta(seconds=n), {"text": text})
            for r in rows
            for n, text in enumerate(r.texts)
        ],
    )
    await connection.execute("ANALYZE")


def questions() -> Iterator[Wanted]:
    """Every filter alone, and many together."""
    day = timedelta(days=1)
    choices: dict[str, tuple[Any, ...]] = {
        "page_id": (None, "1", "30", "none"),
        "include_tags": ((), ("often",), ("half", "often"), ("once", "often", "half"), ("never",), ("half", "unknown")),
        "match_any": (False, True),
        "exclude_tags": ((), ("half",), ("seldom", "often"), ("unknown",)),
        "unread": (None, True, False),
        "updated_from": (None, NOON - 5 * day),
        "updated_to": (None, NOON, NOON - day),
        "search": (None, "hel", "HELLO größe", "ann", "o'hara", "4", "absent", "!'\\:*&|", "x" * 3000, *UNSPACED),
    }
    for name, values in choices.items():
        for value in values:
            yield Wanted(**{name: value})
            yield Wanted(**{"page_id": "1", "include_tags": ("often", "half"), name: value})
    dice = random.Random(11)
    for _ in range(120):
        yield Wanted(**{name: dice.choice(values) for name, values in choices.items()})


async def walked(connection: Connection, wanted: Wanted, limit: int) -> list[tuple[datetime, str, str]]:
    """All pages, each after the last row of the one before."""
    seen: list[tuple[datetime, str, str]] = []
    while True:
        rows, _ = await list_conversations(connection, wanted, after=seen[-1] if seen else None, limit=limit)
        seen += [(row["last_message_at"], row["page_id"], row["psid"]) for row in rows]
        if len(rows) < limit:
            return seen


@pytest.mark.parametrize("tables", ["plain", "hash-partitioned"])
async def test_a_list_is_what_a_reader_of_all_rows_would_pick(connection: Connection, rows: list[Row]) -> None:
    sizes = []
    for wanted in questions():
        expected = picked(rows, wanted)
        listed = await list_conversations(connection, wanted, after=None, limit=500, count=True)
        assert [row["psid"] for row in listed.rows] == [row.psid for row in expected], wanted
        assert listed.total == len(expected), wanted
        assert [row["tags"] for row in listed.rows] == [sorted(row.tags) for row in expected]
        assert await walked(connection, wanted, 37) == [row.place for row in expected], wanted
        sizes.append(len(expected))
    assert len([size for size in sizes if 0 < size < CONVERSATIONS]) > len(sizes) / 3


class Counting:
    """Stands in for a connection and counts its round trips."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self.trips = connection, 0

    async def fetch(self, query: str, *args: Any) -> Any:
        self.trips += 1
        return await self._connection.fetch(query, *args)


async def test_a_page_with_its_count_is_one_round_trip(connection: Connection, rows: list[Row]) -> None:
    counting, asked = Counting(connection), list(questions())
    for wanted in asked:
        listed = await list_conversations(cast("Connection", counting), wanted, after=None, limit=1, count=True)
        assert listed.total == len(picked(rows, wanted))
    assert counting.trips == len(asked)


async def test_words_that_many_have_are_looked_for_along_the_list(
    connection: Connection, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sql.conversation_lists.FEW", 10)
    assert len(rows) < FEW
    for wanted in questions():
        if wanted.search is not None:
            assert await walked(connection, wanted, 37) == [row.place for row in picked(rows, wanted)], wanted


async def test_placeholders_and_unsent_texts_are_not_found(connection: Connection) -> None:
    await store(connection, [Row("1", "p", NOON, frozenset(), False, ("hello",), None)])
    wanted = Wanted(search="hello")
    assert (await list_conversations(connection, wanted, after=None, limit=9, count=True)).total == 1
    await connection.execute("UPDATE messages SET sent_at = NULL, sent_at_rank = 9, seen_batch = NULL")
    assert await list_conversations(connection, wanted, after=None, limit=9, count=True) == ([], 0)
    await connection.execute(
        "UPDATE messages SET sent_at = $1, sent_at_rank = 0, seen_batch = 1, deleted_at = $1, original = NULL", NOON
    )
    assert await list_conversations(connection, wanted, after=None, limit=9, count=True) == ([], 0)


async def test_a_name_without_any_message_is_neither_found_nor_counted(connection: Connection) -> None:
    await store(connection, [Row("1", "p", NOON, frozenset(), False, ("anna",), "Anna")])
    await connection.execute(
        """
        INSERT INTO conversations (page_id, psid, platform, created_at, updated_at)
        VALUES ('1', 'q', 'messenger', now(), now());
        INSERT INTO conversation_names (page_id, psid, name) VALUES ('1', 'q', 'Anna')
        """
    )
    for wanted in (Wanted(search="anna"), Wanted("1", search="anna"), Wanted(search="anna", unread=False)):
        listed = await list_conversations(connection, wanted, after=None, limit=9, count=True)
        assert ([row["psid"] for row in listed.rows], listed.total) == (["p"], 1)


@pytest.mark.parametrize("length", [2_000, 1_500_000])
async def test_a_text_of_any_length_is_stored_and_found_by_its_beginning(connection: Connection, length: int) -> None:
    text = "first " + "".join(f" {n:x}" for n in range(length // 6))
    await store(connection, [Row("1", "p", NOON, frozenset(), False, (text, "y" * length), None)])
    rows, _ = await list_conversations(connection, Wanted(search="first 1a"), after=None, limit=9)
    assert [row["psid"] for row in rows] == ["p"]


# a conversation, when it was last active, and its tags: many enough that no plan reads all of them by mistake
SOME_TEN_THOUSAND = """
    INSERT INTO tags (name) SELECT unnest(ARRAY['often', 'half', 'seldom', 'once']);
    INSERT INTO conversations (
        page_id, psid, platform, last_message_mid, last_message_at, last_message_direction, created_at, updated_at
    )
    SELECT
        (1 + n % 5)::text, 'p' || n, 'messenger', 'm_' || n,
        timestamptz '2026-03-01 12:00Z' - n * interval '90 seconds',
        CASE WHEN n % 7 = 0 THEN 'inbound' ELSE 'outbound' END, now(), now()
    FROM generate_series(1, 30000) AS n;
    INSERT INTO conversation_tags (page_id, psid, tag_id, active_at)
    SELECT c.page_id, c.psid, t.id, span_of(c.last_message_at)
    FROM conversations AS c
    JOIN tags AS t ON mod(abs(hashtext(c.psid || t.name)::bigint), 1000) < (ARRAY[700, 500, 50, 1])[t.id];
    INSERT INTO messages (
        page_id, mid, psid, sent_at, sent_at_rank, original, seen_batch, changed_batch, updated_at
    )
    SELECT
        c.page_id, c.last_message_mid, c.psid, c.last_message_at, 0,
        jsonb_build_object('text', 'hello ' || md5(c.psid)), 1, 1, now()
    FROM conversations AS c
"""
LIMIT = 51
MOST_SORTED = LIMIT * LOOKED_UP  # each row is told with its tags, in order
THIRTY_THOUSAND, PAGES_OF_THEM, UNREAD_IN_EVERY = 30_000, 5, 7
LED_BY: dict[str, dict[str, Any]] = {
    "all": {},
    "a tag": {"include_tags": ("half",)},
    "a rare tag": {"include_tags": ("once",)},
    "two tags": {"include_tags": ("often", "half")},
    "three tags": {"include_tags": ("often", "seldom", "half")},
    "a rare and a common tag": {"include_tags": ("often", "once")},
    "one of two tags": {"include_tags": ("often", "half"), "match_any": True},
    "a rare or a common tag": {"include_tags": ("often", "once"), "match_any": True},
}
SPAN = 10  # conversations, and more, in a span of time
RANGE = (2_000, 16_000)  # of the thirty thousand, newest first: its end comes before some pages are full


def at(n: int) -> datetime:
    """When the n-th of the thirty thousand was last active."""
    return NOON - timedelta(seconds=90 * n)


def combinations(page_id: str | None, led_by: str) -> Iterator[Wanted]:
    """Every filter with every other."""
    for exclude_tags, unread, is_ranged in product(((), ("seldom",)), (None, True, False), (False, True)):
        updated_to, updated_from = map(at, RANGE) if is_ranged else (None, None)
        wanted = Wanted(page_id, exclude_tags=exclude_tags, unread=unread)
        yield wanted._replace(updated_from=updated_from, updated_to=updated_to, **LED_BY[led_by])


@pytest.fixture(scope="session")
async def explainer(server: str, templates: dict[str, str]) -> AsyncIterator[Explainer]:
    """Thirty thousand conversations, as the autovacuum leaves them."""
    async with new_database(server, templates, "plain") as dsn:
        connection = await connect(dsn)
        try:
            await connection.execute(SOME_TEN_THOUSAND)
            await connection.execute("VACUUM ANALYZE")
            yield Explainer(connection)
        finally:
            await connection.close()


async def read(explainer: Explainer, wanted: Wanted, after: int | None) -> float:
    """Read a page of the list, from the n-th conversation on; tells how many rows that may take of any one table."""
    place = None if after is None else (at(after), wanted.page_id or "3", f"p{after}")
    rows, _ = await list_conversations(explainer.connection, wanted, after=place, limit=LIMIT)
    assert all(a["last_message_at"] >= b["last_message_at"] for a, b in pairwise(rows))
    first, end = RANGE if wanted.updated_to else (0, THIRTY_THOUSAND)
    last = int(rows[-1]["psid"][1:]) if len(rows) == LIMIT else end
    passed = (last - max(first, after or 0)) / (PAGES_OF_THEM if wanted.page_id else 1)
    tags = len(wanted.include_tags)
    if wanted.unread and not tags:
        passed /= UNREAD_IN_EVERY
    # where one of two tags will do, each fills a page of its own; of tags that must all be there the rarest is sought
    most = passed * (2 if wanted.match_any else 1) + SPAN
    return max(most, MOST_SORTED, LOOKED_AT * tags if tags > 1 else 0)


@pytest.mark.parametrize("after", [None, 15_000], ids=["first", "deep"])
@pytest.mark.parametrize("page_id", [None, "3"])
@pytest.mark.parametrize("led_by", LED_BY)
async def test_a_page_reads_no_further_than_its_last_row_and_sorts_no_more_than_a_span_of_time(
    explainer: Explainer, led_by: str, page_id: str | None, after: int | None
) -> None:
    for wanted in combinations(page_id, led_by):
        most = await read(explainer, wanted, after)
        assert explainer.read_whole() == set(), (wanted, explainer.plan)
        assert explainer.most_read() <= most, (wanted, most, explainer.plan)
        assert explainer.most_sorted() <= MOST_SORTED, (wanted, explainer.plan)


@pytest.mark.parametrize(
    ("indexes", "wanted"),
    [
        ("conversations_by_activity, conversations_by_activity_of_all", Wanted("3")),
        ("conversations_by_activity_of_all", Wanted()),
        ("conversations_unread, conversations_unread_of_all", Wanted("3", unread=True)),
        ("conversations_unread_of_all", Wanted(unread=True)),
        ("conversation_tags_by_activity", Wanted("3", include_tags=("half",))),
        ("conversation_tags_by_activity_of_all", Wanted(include_tags=("half",))),
    ],
)
async def test_without_its_index_a_page_reads_further_or_sorts_more(
    explainer: Explainer, indexes: str, wanted: Wanted
) -> None:
    async with explainer.without(indexes):
        most = await read(explainer, wanted, 15_000)
    assert explainer.most_read() > most or explainer.most_sorted() > MOST_SORTED, explainer.plan


@pytest.mark.parametrize("page_id", [None, "3"])
async def test_the_plain_way_reads_or_sorts_all_that_lies_before(explainer: Explainer, page_id: str | None) -> None:
    plain, offset = Plain(explainer.connection, LIMIT), 1_000
    wanted = Wanted(page_id, include_tags=("often", "half"), exclude_tags=("seldom",))
    assert len(await plain.by_offset(wanted, offset)) == LIMIT
    assert explainer.most_read() > offset
    assert len(await plain.by_ids(wanted, offset)) == LIMIT
    assert explainer.most_sorted() > offset


@pytest.mark.parametrize("words", ["hello", "hello c4ca", "absent"])
async def test_words_are_found_without_reading_all_texts(explainer: Explainer, words: str) -> None:
    await list_conversations(explainer.connection, Wanted(search=words), after=None, limit=LIMIT)
    assert "messages_by_word" in explainer.plan
    assert explainer.read_whole() <= {"conversation_names"}, explainer.plan


async def test_the_rarest_of_the_tags_leads_wherever_the_page_is(explainer: Explainer) -> None:
    for after in (None, 15_000):
        for tags in (("often", "seldom"), ("seldom", "often"), ("half", "seldom", "often")):
            await read(explainer, Wanted(include_tags=tags), after)
            assert explainer.most_read() <= 200 * len(tags), explainer.plan
