"""Everything that the mirror holds, field by field, in a form in which equal mirrors are equal values."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any, TypeAlias

from tests.sql.doors import write

if TYPE_CHECKING:
    from sql.rows import Row
    from sql.upsert import Connection

Mirror: TypeAlias = dict[str, list[dict[str, Any]]]

# what may depend on the order of arrival: our clock, the batch that wrote, the delivery that came first
ARRIVAL = {
    "conversations": {"created_at", "updated_at"},
    "conversation_threads": {"created_at"},
    "messages": {"delivery_day", "delivery_id", "moved_from", "seen_batch", "changed_batch", "updated_at"},
    "message_reactions": {"delivery_day", "delivery_id", "updated_at"},
    "conversation_events": {"delivery_day", "delivery_id", "received_at", "seen_batch", "updated_at"},
    "conversation_tags": {"created_at"},
    "conversation_names": set(),
    "erasures": {"erased_at", "journal_day", "journal_done_at"},
}
KEYS = {
    "conversations": "page_id, psid",
    "conversation_threads": "page_id, thread_id",
    "messages": "page_id, mid",
    "message_reactions": "page_id, mid, actor",
    "conversation_events": "page_id, event_key",
    "conversation_tags": "page_id, psid, tag_id",
    "conversation_names": "page_id, psid",
    "erasures": "page_id, psid",
}


async def mirrored(connection: Connection) -> Mirror:
    """Read all rows of all tables that grow, but for what may depend on the order of arrival."""
    found: Mirror = {}
    for table, key in KEYS.items():
        rows = await connection.fetch(f"SELECT * FROM {table} ORDER BY {key}")
        found[table] = [{k: v for k, v in row.items() if k not in ARRIVAL[table]} for row in rows]
    for message in found["messages"]:
        links = message["links"] or {}
        plain = {signed: unsigned for unsigned, (_, signed, _) in links.items()}
        message["links"] = sorted(links)
        message["attachments"] = _unsigned(message["attachments"], plain)
    return found


def _unsigned(value: Any, plain: dict[str, str]) -> Any:
    """A link's signature is no part of what is compared: which one is stored depends on when it was read."""
    if isinstance(value, str):
        return plain.get(value, value)
    if isinstance(value, list):
        return [_unsigned(v, plain) for v in value]
    if isinstance(value, dict):
        return {k: _unsigned(v, plain) for k, v in value.items() if k != "url_expires_at"}
    return value


async def empty(connection: Connection) -> None:
    """Empty all tables that grow."""
    await connection.execute(";".join(f"DELETE FROM {table}" for table in KEYS))


async def outcome(connection: Connection, told: list[list[Row]], batches: list[list[int]]) -> Mirror:
    """What is stored after these batches, each a transaction as far as the others can see; nothing is kept."""
    whole = connection.transaction()
    await whole.start()
    try:
        for batch in batches:
            await write(connection, *[told[n] for n in batch])
        return await mirrored(connection)
    finally:
        await whole.rollback()


class Stored:
    """What is stored after some facts, which is the same in whatever order they came."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def __getitem__(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table."""
        return self.mirror[table]

    @property
    def message(self) -> dict[str, Any]:
        """The only message."""
        [message] = self["messages"]
        return message

    @property
    def conversation(self) -> dict[str, Any]:
        """The only conversation."""
        [conversation] = self["conversations"]
        return conversation

    @property
    def reactions(self) -> dict[str, str | None]:
        """Whoever reacts: {actor: emoji or name}."""
        return {r["actor"]: r["emoji"] or r["reaction"] for r in self["message_reactions"] if not r["is_removed"]}


async def after(connection: Connection, *told: list[Row]) -> Stored:
    """Write facts in every order, one by one and together; it must not matter. Nothing is kept."""
    numbers = range(len(told))
    expected = await outcome(connection, [*told], [[*numbers]])
    for order in permutations(numbers):
        assert await outcome(connection, [*told], [[n] for n in order]) == expected
    return Stored(expected)
