"""Everything that the mirror holds, field by field, in a form in which equal mirrors are equal values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
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
}
KEYS = {
    "conversations": "page_id, psid",
    "conversation_threads": "page_id, thread_id",
    "messages": "page_id, mid",
    "message_reactions": "page_id, mid, actor",
    "conversation_events": "page_id, event_key",
    "conversation_tags": "page_id, psid, tag_id",
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
    for table in KEYS:
        await connection.execute(f"DELETE FROM {table}")
