"""Lists of conversations: by Page, tags, unread, time and words, newest activity first.

A page of a list comes out of an index: the conversations' own, which is in their order, or that of a tag, whose order
is that of spans of time within which rows are sorted; of several tags the rarest leads. What else is asked for is
looked up row by row until the page is full: hence OFFSET 0 in sub-selects, without which Postgres may turn them into
joins that read all of a tag first. And hence all that is looked up stands in one sub-select, of which Postgres expects
a row each time: were it to guess how few hold all of it, it would rather sort all of a range than go along the index. A
statement holds only what was asked for: a plan made for "or not given" would read all that came before.

Words are found by an index that knows no order. Conversations that have them are sorted, unless they are so many that
looking at one after the other soon fills a page: that is decided inside the statement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sql.conversations import SHOWN

if TYPE_CHECKING:
    from datetime import datetime

    from sql.upsert import Connection

    After = tuple[datetime, str, str]

FEW = 50_000  # texts and names with the words: the conversations of more are not sorted
LOOKED_AT = 200  # of each tag's next conversations, to tell which tag is the rarest here
_PROBE = " OFFSET 0"
_TEXT_HAS_THEM = "m.text IS NOT NULL AND m.sent_at IS NOT NULL AND words_of(m.text) @@"
_NAME_HAS_THEM = "words_of(n.name) @@"


class Wanted(NamedTuple):
    """Which conversations: all that is given must hold.

    Of `include_tags` all, or one if `match_any`; of `exclude_tags` none. A tag that does not exist is on none.
    `updated_from` and `updated_to` (itself left out) are about the last message. `search` is words, each of which
    begins a word of one and the same message, or of the person's name (or stands anywhere, in scripts without spaces).
    """

    page_id: str | None = None
    include_tags: tuple[str, ...] = ()
    match_any: bool = False
    exclude_tags: tuple[str, ...] = ()
    unread: bool | None = None
    updated_from: datetime | None = None
    updated_to: datetime | None = None
    search: str | None = None


class Listed(NamedTuple):
    """A page of a list, and how many conversations the list has in all; None where that was not asked for."""

    rows: list[dict[str, Any]]
    total: int | None


async def list_conversations(
    connection: Connection, wanted: Wanted, *, after: After | None, limit: int, count: bool = False
) -> Listed:
    """Conversations with a known message, newest activity first, after (last_message_at, page_id, psid).

    One round trip, also with the count.
    """
    statement = _Statement(wanted)
    page = statement.page(after, limit)
    if not count:
        return Listed([dict(row) for row in await connection.fetch(page, *statement.args)], None)
    found = await connection.fetch(
        f"""
        SELECT p.*, n.total FROM (SELECT ({statement.count()}) AS total) AS n LEFT JOIN ({page}) AS p ON true
        ORDER BY p.last_message_at DESC, p.page_id DESC, p.psid DESC
        """,
        *statement.args,
    )
    rows = [dict(row) for row in found if row["psid"] is not None]
    totals = [row.pop("total") for row in rows] or [row["total"] for row in found]
    return Listed(rows, totals[0])


class _Statement:
    """A statement in the making, and its arguments. `c` is the conversation, `k` a tag that leads to it."""

    def __init__(self, wanted: Wanted) -> None:
        self.args: list[Any] = []
        self._wanted = wanted
        self._names: dict[str, str] = {}

    def page(self, after: After | None, limit: int) -> str:
        """Give the rows of one page, in order."""
        if self._wanted.search is None:
            return self._along_an_index(after, limit, [])
        are_few = f"(SELECT count(*) FROM hits) <= {FEW}"
        few = f"""
            SELECT {SHOWN}
            FROM (SELECT DISTINCT h.page_id, h.psid FROM hits AS h WHERE {are_few}) AS k
            {_looked_up(self._conditions(after, self._tagged("k"), of="k"))} {self._in_order(limit)}
        """
        many = self._along_an_index(after, limit, [f"NOT {are_few}", self._has_words()])
        return f"""
            WITH hits AS MATERIALIZED ({_all(self._hits(at_most=FEW + 1))})
            SELECT * FROM (({few}) UNION ALL ({many})) AS c {self._in_order(limit)}
        """

    def count(self) -> str:
        """Count all, however Postgres thinks best."""
        wanted = self._wanted
        if wanted == Wanted(page_id=wanted.page_id, search=wanted.search) and wanted.search is not None:
            # whoever has a message is listed: looking that up would take as long as all the rest
            texts, names = self._hits()
            return f"""
                SELECT count(*) FROM (
                    {texts}
                    UNION
                    SELECT n.page_id, n.psid FROM ({names}) AS n
                    JOIN conversations AS c ON c.page_id = n.page_id AND c.psid = n.psid
                    WHERE c.last_message_at IS NOT NULL
                ) AS k
            """
        if wanted.search is not None:
            return f"""
                SELECT count(*) FROM (SELECT DISTINCT h.page_id, h.psid FROM ({_all(self._hits())}) AS h) AS k
                JOIN conversations AS c ON c.page_id = k.page_id AND c.psid = k.psid
                WHERE {self._conditions(None, self._tagged("c", probe=""), probe="")}
            """
        if not wanted.include_tags:
            return f"SELECT count(*) FROM conversations AS c WHERE {self._conditions(None, [], probe='')}"
        conversation = ""
        if (wanted.unread, wanted.updated_from, wanted.updated_to) != (None, None, None):
            conversation = "JOIN conversations AS c ON c.page_id = k.page_id AND c.psid = k.psid"
        if wanted.match_any:
            one_of_them = f"ANY({self._ids('include_tags')})"
            return f"""
                SELECT count(*) FROM (
                    SELECT DISTINCT k.page_id, k.psid FROM conversation_tags AS k {conversation}
                    WHERE {self._spans(None, one_of_them)} AND {self._conditions(None, [], of="k", probe="")}
                ) AS k
            """
        tagged = self._conditions(None, self._tagged("k", probe=""), of="k", probe="")
        return f"""
            SELECT count(*) FROM conversation_tags AS k {conversation}
            WHERE {self._spans(None, self._rarest(None))} AND {tagged}
        """

    def _along_an_index(self, after: After | None, limit: int, more: list[str]) -> str:
        wanted = self._wanted
        if not wanted.include_tags:
            return f"""
                SELECT {SHOWN} FROM conversations AS c WHERE {self._conditions(after, more)} {self._in_order(limit)}
            """
        if wanted.match_any and len(wanted.include_tags) > 1:
            return f"""
                SELECT {SHOWN} FROM (
                    SELECT DISTINCT e.page_id, e.psid
                    FROM tags AS g CROSS JOIN LATERAL (
                        SELECT k.page_id, k.psid
                        FROM conversation_tags AS k {_looked_up(self._conditions(after, more, of="k"))}
                        WHERE {self._spans(after, "g.id")} {self._in_order(limit, led=True)}
                    ) AS e
                    WHERE g.name = ANY({self._name("include_tags")})
                ) AS k {_looked_up("true")}
                {self._in_order(limit)}
            """
        tagged = self._tagged("k") if len(wanted.include_tags) > 1 else []
        return f"""
            SELECT {SHOWN} FROM conversation_tags AS k {_looked_up(self._conditions(after, [*tagged, *more], of="k"))}
            WHERE {self._spans(after, self._rarest(after))} {self._in_order(limit, led=True)}
        """

    def _spans(self, after: After | None, tag: str) -> str:
        """A tag's spans of time in which there may be what is asked for."""
        wanted = self._wanted
        conditions = [f"k.tag_id = {tag}", "k.active_at IS NOT NULL"]
        if wanted.page_id is not None:
            conditions.append(f"k.page_id = {self._name('page_id')}")
        if after is not None:
            conditions.append(f"k.active_at <= span_of({self._arg(after[0])})")
        if wanted.updated_to is not None:
            conditions.append(f"k.active_at <= span_of({self._name('updated_to')})")
        if wanted.updated_from is not None:
            conditions.append(f"k.active_at >= span_of({self._name('updated_from')})")
        return " AND ".join(conditions)

    def _conditions(self, after: After | None, more: list[str], *, of: str = "c", probe: str = _PROBE) -> str:
        """All that is asked for but words and tags to have, `of` what leads to the conversation or of itself."""
        wanted = self._wanted
        conditions = []
        if of == "c":
            conditions.append("c.last_message_at IS NOT NULL")
            if wanted.page_id is not None:
                conditions.append(f"c.page_id = {self._name('page_id')}")
        if after is not None:
            at, page_id, psid = self._arg(after[0]), "", self._arg(after[2])
            if wanted.page_id is None:
                page_id = f"{self._arg(after[1])}, "
            conditions.append(f"(c.last_message_at, {page_id and 'c.page_id, '}c.psid) < ({at}, {page_id}{psid})")
        for name, compared in (("updated_from", ">="), ("updated_to", "<")):
            if getattr(wanted, name) is not None:
                conditions.append(f"c.last_message_at {compared} {self._name(name)}")
        if wanted.unread is not None:
            conditions.append("c.is_unread" if wanted.unread else "NOT c.is_unread")
        conditions += more
        if wanted.exclude_tags:
            one_of_them = f"ANY({self._ids('exclude_tags')})"
            conditions.append(f"NOT {_has_tag(of, one_of_them, probe)}")
        return " AND ".join(conditions) or "true"

    def _tagged(self, of: str, *, probe: str = _PROBE) -> list[str]:
        """Whether it has the tags that it must have."""
        wanted = self._wanted
        if not wanted.include_tags:
            return []
        if wanted.match_any:
            return [_has_tag(of, f"ANY({self._ids('include_tags')})", probe)]
        names, number = self._name("include_tags"), len(wanted.include_tags)
        exist = f"(SELECT count(*) FROM tags WHERE name = ANY({names})) = {number}"
        ids = [f"(SELECT id FROM tags WHERE name = ({names})[{n}])" for n in range(1, number + 1)]
        return [exist, *(_has_tag(of, one, probe) for one in ids)]

    def _rarest(self, after: After | None) -> str:
        """The id of the tag to go along: of those that it must have, the one whose conversations lie furthest apart."""
        wanted, names = self._wanted, self._name("include_tags")
        if len(wanted.include_tags) == 1:
            return f"(SELECT id FROM tags WHERE name = ({names})[1])"
        here = f"AND r.page_id = {self._name('page_id')}" if wanted.page_id is not None else ""
        if after is not None:
            here += f" AND r.active_at <= span_of({self._arg(after[0])})"
        return f"""(
            SELECT g.id FROM tags AS g CROSS JOIN LATERAL (
                SELECT CASE WHEN count(*) = {LOOKED_AT} THEN min(n.active_at) ELSE '-infinity' END AS down_to
                FROM (
                    SELECT r.active_at FROM conversation_tags AS r
                    WHERE r.tag_id = g.id AND r.active_at IS NOT NULL {here}
                    ORDER BY r.active_at DESC LIMIT {LOOKED_AT}
                ) AS n
            ) AS next
            WHERE g.name = ANY({names}) ORDER BY next.down_to, g.id LIMIT 1
        )"""

    def _ids(self, name: str) -> str:
        return f"ARRAY(SELECT id FROM tags WHERE name = ANY({self._name(name)}))"

    def _in_order(self, limit: int, *, led: bool = False) -> str:
        """Newest activity first. One Page's come from an index that starts with it."""
        page = "" if self._wanted.page_id is not None else "c.page_id DESC,"
        span = "k.active_at DESC," if led else ""
        return f"ORDER BY {span} c.last_message_at DESC, {page} c.psid DESC LIMIT {limit:d}"

    def _hits(self, at_most: int | None = None) -> tuple[str, str]:
        """The conversations of the texts, and of the names, with the words, some of them more than once."""
        words, limit = self._words(), "" if at_most is None else f"LIMIT {at_most}"
        of_page = f"AND page_id = {self._name('page_id')}" if self._wanted.page_id is not None else ""
        return (
            f"(SELECT m.page_id, m.psid FROM messages AS m WHERE {_TEXT_HAS_THEM} {words} {of_page} {limit})",
            f"(SELECT n.page_id, n.psid FROM conversation_names AS n WHERE {_NAME_HAS_THEM} {words} {of_page} {limit})",
        )

    def _has_words(self) -> str:
        words = self._words()
        return f"""(
            EXISTS (
                SELECT FROM messages AS m
                WHERE m.page_id = c.page_id AND m.psid = c.psid AND {_TEXT_HAS_THEM} {words} OFFSET 0
            )
            OR EXISTS (
                SELECT FROM conversation_names AS n
                WHERE n.page_id = c.page_id AND n.psid = c.psid AND {_NAME_HAS_THEM} {words} OFFSET 0
            )
        )"""

    def _words(self) -> str:
        return f"(SELECT search_words({self._name('search')}))"

    def _name(self, name: str) -> str:
        """Return the parameter of a field of what is wanted."""
        if name not in self._names:
            value = getattr(self._wanted, name)
            if isinstance(value, tuple):
                self._names[name] = f"{self._arg(list(value))}::text[]"
            else:
                self._names[name] = self._arg(value)
        return self._names[name]

    def _arg(self, value: object) -> str:
        self.args.append(value)
        return f"${len(self.args)}"


def _all(hits: tuple[str, str]) -> str:
    return " UNION ALL ".join(hits)


def _looked_up(conditions: str) -> str:
    """The conversation that `k` leads to, if all that is asked for holds."""
    return f"""CROSS JOIN LATERAL (
        SELECT * FROM conversations AS c
        WHERE c.page_id = k.page_id AND c.psid = k.psid AND c.last_message_at IS NOT NULL AND {conditions} OFFSET 0
    ) AS c"""


def _has_tag(of: str, which: str, probe: str) -> str:
    return f"""EXISTS (
        SELECT FROM conversation_tags AS x
        WHERE x.page_id = {of}.page_id AND x.psid = {of}.psid AND x.tag_id = {which}{probe}
    )"""
