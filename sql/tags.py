"""Tags: the owner's own labels, and which conversations carry them.

Locks, in one order: the tags, the conversations by key, what ties both. Ingest takes a conversation before what ties
it to tags, too, and who puts a tag on shares the conversation's lock: so the span of its last message that goes with
the tag is the right one, and stays so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sql.batches import columns

if TYPE_CHECKING:
    from collections.abc import Collection

    import asyncpg

    from sql.upsert import Connection

_KEYS = "unnest($2::text[], $3::text[]) AS n (page_id, psid)"


class Tagged(NamedTuple):
    """What a bulk change did: tags put on, tags taken off, conversations that there are none of."""

    added: int
    removed: int
    unknown: list[tuple[str, str]]


class UnknownTagsError(Exception):
    """There are no such tags; nothing was changed."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(f"no such tags: {', '.join(sorted(names))}")
        self.names = sorted(names)


async def list_tags(
    connection: Connection, *, page_id: str | None = None, name: str | None = None
) -> list[asyncpg.Record]:
    """Tags by name, or the one of a name, each with how many conversations that are listed carry it."""
    return await connection.fetch(
        """
        SELECT t.id, t.name, t.colour, t.created_at, k.conversations
        FROM tags AS t
        CROSS JOIN LATERAL (
            SELECT count(*) AS conversations FROM conversation_tags AS k
            WHERE k.tag_id = t.id AND k.active_at IS NOT NULL AND ($1::text IS NULL OR k.page_id = $1)
        ) AS k
        WHERE $2::text IS NULL OR t.name = $2
        ORDER BY t.name
        """,
        page_id,
        name,
    )


async def create_tag(connection: Connection, name: str, colour: str | None) -> bool:
    """Make a tag; returns whether there was none of that name."""
    done = await connection.execute(
        "INSERT INTO tags (name, colour) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", name, colour
    )
    return bool(done == "INSERT 0 1")


async def change_tag(
    connection: Connection, name: str, *, new_name: str | None, colour: str | None, keep_colour: bool
) -> bool:
    """Rename a tag, unless `new_name` is None, and give it another colour or none; returns whether there is one.

    Raises:
        asyncpg.UniqueViolationError: there is one of the new name already.

    """
    async with connection.transaction():
        tag_id = await connection.fetchval(
            """
            UPDATE tags SET name = COALESCE($2, name), colour = CASE WHEN $4 THEN colour ELSE $3 END WHERE name = $1
            RETURNING id
            """,
            name,
            new_name,
            colour,
            keep_colour,
        )
        if tag_id is not None and new_name not in {None, name}:
            await connection.execute(f"SELECT {_noted('k')} FROM conversation_tags AS k WHERE k.tag_id = $1", tag_id)
    return tag_id is not None


async def delete_tag(connection: Connection, name: str) -> bool:
    """Delete a tag and take it off every conversation; returns whether there was one."""
    async with connection.transaction():
        # waits for whoever is putting it on, and nobody can from then on
        tag_id = await connection.fetchval("DELETE FROM tags WHERE name = $1 RETURNING id", name)
        if tag_id is None:
            return False
        await connection.execute(
            f"""
            WITH locked AS MATERIALIZED (
                SELECT k.page_id, k.psid FROM conversation_tags AS k WHERE k.tag_id = $1
                ORDER BY k.page_id, k.psid FOR UPDATE
            ),
            gone AS (
                DELETE FROM conversation_tags AS k USING locked AS l
                WHERE k.page_id = l.page_id AND k.psid = l.psid AND k.tag_id = $1
                RETURNING k.page_id, k.psid
            )
            SELECT {_noted("k")} FROM gone AS k
            """,
            tag_id,
        )
    return True


async def tag_conversations(
    connection: Connection,
    conversations: Collection[tuple[str, str]],
    *,
    add: Collection[str] = (),
    remove: Collection[str] = (),
) -> Tagged:
    """Put tags on conversations, (page_id, psid), and take others off; what is so already stays so.

    Raises:
        UnknownTagsError: there is no tag of a name.

    """
    keys = [*columns(sorted(set(conversations)))] or [(), ()]
    async with connection.transaction():
        tags = await connection.fetch(
            "SELECT id, name FROM tags WHERE name = ANY($1::text[]) ORDER BY id FOR KEY SHARE", [*add, *remove]
        )
        ids = {tag["name"]: tag["id"] for tag in tags}
        missing = {*add, *remove} - ids.keys()
        if missing:
            raise UnknownTagsError(missing)
        known = await connection.fetch(
            """
            SELECT c.page_id, c.psid FROM conversations AS c
            JOIN unnest($1::text[], $2::text[]) AS n (page_id, psid) ON c.page_id = n.page_id AND c.psid = n.psid
            ORDER BY c.page_id, c.psid FOR SHARE OF c
            """,
            *keys,
        )
        here = {(row["page_id"], row["psid"]) for row in known}
        added = await _put_on(connection, [ids[name] for name in add], keys)
        removed = await _take_off(connection, [ids[name] for name in remove], keys)
    return Tagged(added, removed, sorted(set(conversations) - here))


async def _put_on(connection: Connection, ids: list[int], keys: list[tuple[str, ...]]) -> int:
    if not ids:
        return 0
    [(done, _)] = await connection.fetch(
        f"""
        WITH new AS (
            INSERT INTO conversation_tags (page_id, psid, tag_id, active_at)
            SELECT c.page_id, c.psid, t.id, span_of(c.last_message_at)
            FROM {_KEYS} JOIN conversations AS c ON c.page_id = n.page_id AND c.psid = n.psid
            CROSS JOIN unnest($1::bigint[]) AS t (id)
            ORDER BY c.page_id, c.psid, t.id
            ON CONFLICT (page_id, psid, tag_id) DO NOTHING
            RETURNING page_id, psid
        )
        SELECT count(*), {_noted("k")} FROM new AS k
        """,
        ids,
        *keys,
    )
    return int(done)


async def _take_off(connection: Connection, ids: list[int], keys: list[tuple[str, ...]]) -> int:
    if not ids:
        return 0
    [(done, _)] = await connection.fetch(
        f"""
        WITH locked AS MATERIALIZED (
            SELECT k.page_id, k.psid, k.tag_id
            FROM {_KEYS}
            JOIN conversation_tags AS k ON k.page_id = n.page_id AND k.psid = n.psid
            WHERE k.tag_id = ANY($1::bigint[])
            ORDER BY k.page_id, k.psid, k.tag_id FOR UPDATE OF k
        ),
        gone AS (
            DELETE FROM conversation_tags AS k USING locked AS l
            WHERE k.page_id = l.page_id AND k.psid = l.psid AND k.tag_id = l.tag_id
            RETURNING k.page_id, k.psid
        )
        SELECT count(*), {_noted("k")} FROM gone AS k
        """,
        ids,
        *keys,
    )
    return int(done)


def _noted(of: str) -> str:
    """Note in the feed that conversations have other tags."""
    return f"note_changes(array_agg(ROW('conversation', {of}.page_id, {of}.psid, {of}.psid)::change_row))"
