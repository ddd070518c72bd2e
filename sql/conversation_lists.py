"""Lists of conversations: by Page, tags, unread, time and words, newest activity first.

A page of a list comes out of an index that is in its order: the conversations' own, or that of a tag, of which the
rarest leads. What else is asked for is looked up row by row until the page is full: hence OFFSET 0 in sub-selects,
without which Postgres may turn them into joins that read all of a tag first. A statement holds only what was asked
for: a plan made for "or not given" would read all that came before.

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
COUNTED = 1_000  # of each tag's conversations, to tell which tag is the rarest
_PROBE = " OFFSET 0"
_TEXT_HAS_THEM = "m.text IS NOT NULL AND m.sent_at IS NOT NULL AND to_tsvector('simple', left(m.text, 8000)) @@"
_NAME_HAS_THEM = "to_tsvector('simple', left(n.name, 8000)) @@"
_WITH_CONVERSATION = """
    CROSS JOIN LATERAL (
        SELECT * FROM conversations AS o WHERE o.page_id = k.page_id AND o.psid = k.psid OFFSET 0
    ) AS c
"""


class Wanted(NamedTuple):
    """Which conversations: all that is given must hold.

    Of `include_tags` all, or one if `match_any`; of `exclude_tags` none. A tag that does not exist is on none.
    `updated_from` and `updated_to` (itself left out) are about the last message. `search` is words, each of which
    begins a word of one and the same message, or of the person's name.
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
    """A statement in the making, and its arguments. `k` is what leads, `c` its conversation."""

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
            SELECT {SHOWN} FROM (SELECT DISTINCT h.page_id, h.psid FROM hits AS h) AS k {_WITH_CONVERSATION}
            WHERE {self._conditions("c", after, [are_few, *self._tagged("c")])} {self._in_order("c", limit)}
        """
        many = self._along_an_index(after, limit, [f"NOT {are_few}", self._has_words("k")])
        return f"""
            WITH hits AS MATERIALIZED ({self._hits(at_most=FEW + 1)})
            SELECT * FROM (({few}) UNION ALL ({many})) AS p
            ORDER BY p.last_message_at DESC, p.page_id DESC, p.psid DESC LIMIT {limit:d}
        """

    def count(self) -> str:
        """Count all, however Postgres thinks best."""
        wanted = self._wanted
        if wanted.search is not None:
            return f"""
                SELECT count(*) FROM (SELECT DISTINCT h.page_id, h.psid FROM ({self._hits()}) AS h) AS k
                JOIN conversations AS c ON c.page_id = k.page_id AND c.psid = k.psid
                WHERE {self._conditions("c", None, self._tagged("c", probe=""), probe="")}
            """
        if not wanted.include_tags:
            return f"SELECT count(*) FROM conversations AS c WHERE {self._conditions('c', None, [], probe='')}"
        conversation = ""
        if wanted.unread is not None:
            conversation = "JOIN conversations AS c ON c.page_id = k.page_id AND c.psid = k.psid"
        if wanted.match_any:
            one_of_them = f"k.tag_id = ANY({self._ids('include_tags')})"
            return f"""
                SELECT count(*) FROM (
                    SELECT DISTINCT k.page_id, k.psid FROM conversation_tags AS k {conversation}
                    WHERE {self._conditions("k", None, [one_of_them], probe="")}
                ) AS k
            """
        tagged = [f"k.tag_id = {self._rarest()}", *self._tagged("k", probe="")]
        return f"""
            SELECT count(*) FROM conversation_tags AS k {conversation}
            WHERE {self._conditions("k", None, tagged, probe="")}
        """

    def _along_an_index(self, after: After | None, limit: int, more: list[str]) -> str:
        wanted = self._wanted
        if not wanted.include_tags:
            more = [condition.replace("k.", "c.") for condition in more]
            return f"""
                SELECT {SHOWN} FROM conversations AS c
                WHERE {self._conditions("c", after, more)} {self._in_order("c", limit)}
            """
        if wanted.match_any and len(wanted.include_tags) > 1:
            return f"""
                SELECT {SHOWN} FROM (
                    SELECT DISTINCT e.page_id, e.psid, e.last_message_at
                    FROM tags AS g CROSS JOIN LATERAL (
                        SELECT k.page_id, k.psid, k.last_message_at
                        FROM conversation_tags AS k {_WITH_CONVERSATION if wanted.unread is not None else ""}
                        WHERE {self._conditions("k", after, ["k.tag_id = g.id", *more])} {self._in_order("k", limit)}
                    ) AS e
                    WHERE g.name = ANY({self._name("include_tags")})
                ) AS k {_WITH_CONVERSATION}
                {self._in_order("k", limit)}
            """
        tagged = [f"k.tag_id = {self._rarest()}"]
        if len(wanted.include_tags) > 1:
            tagged += self._tagged("k")
        return f"""
            SELECT {SHOWN} FROM conversation_tags AS k {_WITH_CONVERSATION}
            WHERE {self._conditions("k", after, [*tagged, *more])} {self._in_order("k", limit)}
        """

    def _conditions(self, of: str, after: After | None, more: list[str], *, probe: str = _PROBE) -> str:
        """All that is asked for but words and tags to have."""
        wanted = self._wanted
        conditions = [f"{of}.last_message_at IS NOT NULL"]
        if wanted.page_id is not None:
            conditions.append(f"{of}.page_id = {self._name('page_id')}")
        if after is not None:
            at, page_id, psid = after
            if wanted.page_id is not None:
                place = f"({of}.last_message_at, {of}.psid) < ({self._arg(at)}, {self._arg(psid)})"
            else:
                names = ", ".join(self._arg(value) for value in (at, page_id, psid))
                place = f"({of}.last_message_at, {of}.page_id, {of}.psid) < ({names})"
            conditions.append(place)
        if wanted.updated_from is not None:
            conditions.append(f"{of}.last_message_at >= {self._name('updated_from')}")
        if wanted.updated_to is not None:
            conditions.append(f"{of}.last_message_at < {self._name('updated_to')}")
        if wanted.unread is not None:
            conditions.append("c.is_unread" if wanted.unread else "NOT c.is_unread")
        if wanted.exclude_tags:
            one_of_them = f"ANY({self._ids('exclude_tags')})"
            conditions.append(f"NOT {_has_tag(of, one_of_them, probe)}")
        return " AND ".join([*conditions, *more])

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

    def _rarest(self) -> str:
        """The id of the tag to go along: of those that it must have, the one on the fewest."""
        wanted, names = self._wanted, self._name("include_tags")
        if len(wanted.include_tags) == 1:
            return f"(SELECT id FROM tags WHERE name = ({names})[1])"
        of_page = f"AND r.page_id = {self._name('page_id')}" if wanted.page_id is not None else ""
        return f"""(
            SELECT g.id FROM tags AS g WHERE g.name = ANY({names})
            ORDER BY (
                SELECT count(*) FROM (
                    SELECT FROM conversation_tags AS r
                    WHERE r.tag_id = g.id AND r.last_message_at IS NOT NULL {of_page} LIMIT {COUNTED}
                ) AS some
            ), g.id LIMIT 1
        )"""

    def _ids(self, name: str) -> str:
        return f"ARRAY(SELECT id FROM tags WHERE name = ANY({self._name(name)}))"

    def _in_order(self, of: str, limit: int) -> str:
        """Newest activity first; one Page's come from an index that starts with it."""
        page = "" if self._wanted.page_id is not None else f"{of}.page_id DESC,"
        return f"ORDER BY {of}.last_message_at DESC, {page} {of}.psid DESC LIMIT {limit:d}"

    def _hits(self, at_most: int | None = None) -> str:
        """The conversations of the texts and names with the words, some of them more than once."""
        words, limit = self._words(), "" if at_most is None else f"LIMIT {at_most}"
        of_page = f"AND page_id = {self._name('page_id')}" if self._wanted.page_id is not None else ""
        return f"""
            (SELECT m.page_id, m.psid FROM messages AS m WHERE {_TEXT_HAS_THEM} {words} {of_page} {limit})
            UNION ALL
            (SELECT n.page_id, n.psid FROM conversation_names AS n WHERE {_NAME_HAS_THEM} {words} {of_page} {limit})
        """

    def _has_words(self, of: str) -> str:
        words = self._words()
        return f"""(
            EXISTS (
                SELECT FROM messages AS m
                WHERE m.page_id = {of}.page_id AND m.psid = {of}.psid AND {_TEXT_HAS_THEM} {words} OFFSET 0
            )
            OR EXISTS (
                SELECT FROM conversation_names AS n
                WHERE n.page_id = {of}.page_id AND n.psid = {of}.psid AND {_NAME_HAS_THEM} {words} OFFSET 0
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


def _has_tag(of: str, which: str, probe: str) -> str:
    return f"""EXISTS (
        SELECT FROM conversation_tags AS x
        WHERE x.page_id = {of}.page_id AND x.psid = {of}.psid AND x.tag_id = {which}{probe}
    )"""
