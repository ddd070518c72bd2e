"""The index of the words in messages: what is new in it is merged here, so that no webhook has to.

Such an index takes in what is new by a list. A writer who finds that list long merges it, which takes seconds in a
large mirror, and who searches goes through all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sql.upsert import Connection

_LOCK = 7_226_831_904_115  # any number, the same in every version


async def merge_new_words(connection: Connection) -> int:
    """Merge what is new; returns how many pages of the list that were. While another process does, nothing."""
    async with connection.transaction():
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
            return 0
        return int(
            await connection.fetchval(
                """
                SELECT COALESCE(sum(gin_clean_pending_list(i.oid)), 0) FROM (
                    SELECT c.oid FROM pg_class AS c WHERE c.oid = 'messages_by_word'::regclass AND c.relkind = 'i'
                    UNION ALL
                    SELECT t.relid FROM pg_partition_tree('messages_by_word'::regclass) AS t
                    WHERE t.isleaf AND t.level > 0
                ) AS i
                """
            )
        )
