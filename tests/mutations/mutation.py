from __future__ import annotations

from typing import NamedTuple

SCHEMA = "sql/migrations/*_mirror_of_conversations.sql"
UPSERT = "sql/migrations/*_upsert_in_one_round_trip.sql"


class Mutation(NamedTuple):
    """One mistake: `old`, which stands once in `file` (a pattern), becomes `new`; `tests` have to fail then."""

    rule: str
    change: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
