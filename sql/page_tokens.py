"""The Pages' tokens, encrypted, for encrypting them anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sql.upsert import Connection


async def sealed_tokens(connection: Connection) -> dict[str, str]:
    """Every stored token by its Page."""
    rows = await connection.fetch(
        "SELECT page_id, token_encrypted FROM facebook_pages WHERE token_encrypted IS NOT NULL ORDER BY page_id"
    )
    return {row["page_id"]: row["token_encrypted"] for row in rows}


async def replace_sealed_token(connection: Connection, page_id: str, old: str, new: str) -> bool:
    """Put one in another's place; returns whether that was still there: the Page may have got a new token meanwhile."""
    done = await connection.execute(
        "UPDATE facebook_pages SET token_encrypted = $3 WHERE page_id = $1 AND token_encrypted = $2", page_id, old, new
    )
    return bool(done == "UPDATE 1")
