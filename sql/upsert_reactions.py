"""Reactions: one row per (page_id, mid, actor). Their message's row is locked before, so it guards them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.batches import ROWS_PER_STATEMENT, first_three, numbered

if TYPE_CHECKING:
    from datetime import datetime

    from sql.rows import Reaction
    from sql.upsert import Connection


async def upsert_reactions(connection: Connection, rows: list[Reaction], now: datetime) -> None:
    """Merge reactions: the newest time wins, then the removal, then the greater emoji.

    Nothing is stored on an unsent message, nor below the time at which Graph's own list was read.
    """
    await connection.execute(
        "SELECT note_changes(upsert_reactions($1::reaction_row[], $2))",
        numbered(rows, first_three, ROWS_PER_STATEMENT),
        now,
    )
