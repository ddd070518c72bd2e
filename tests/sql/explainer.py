"""How Postgres reads what is asked for through a connection."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sql.upsert import Connection

CONTROL_TABLES = {"tags"}  # small ones, which are best read as a whole
LOOKED_UP = 4  # rows at most that a look-up by key reads, whichever of them it wants: the tags of a conversation


def literal(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"'{{{','.join(map(str, value))}}}'"  # of whatever type is wanted
    return "NULL" if value is None else f"'{value}'"


class Explainer:
    """Stands in for a connection and keeps the plan of what is read through it, made for any parameters at all.

    Plans are made as on a table too large to be read as a whole.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.plan = ""
        self._nodes: list[dict[str, Any]] = []

    @property
    def connection(self) -> Connection:
        """Itself, to be asked."""
        return cast("Connection", self)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        async with self._connection.transaction():
            await self._connection.execute(f"SET LOCAL plan_cache_mode = force_generic_plan; PREPARE asked AS {query}")
            given = ", ".join(literal(value) for value in args)
            execute = f"EXECUTE asked {f'({given})' if given else ''}"
            rows = await self._connection.fetch(f"EXPLAIN (COSTS off) {execute}")
            [[told]] = await self._connection.fetch(f"EXPLAIN (ANALYZE, TIMING off, FORMAT json) {execute}")
            await self._connection.execute("DEALLOCATE asked")
            self.plan = "\n".join(row[0] for row in rows)
            self._nodes = list(_nodes(told[0]["Plan"]))
        return cast("list[Any]", await self._connection.fetch(query, *args))

    @asynccontextmanager
    async def without(self, indexes: str) -> AsyncIterator[None]:
        """Do without some indexes, for a while."""
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            await self._connection.execute(f"DROP INDEX {indexes}")
            yield
        finally:
            await transaction.rollback()

    def read_whole(self) -> set[str]:
        """The tables that were read from the beginning to the end."""
        scans = [n for n in self._nodes if n["Node Type"] == "Seq Scan" and n["Actual Loops"]]
        return {n["Relation Name"] for n in scans} - CONTROL_TABLES

    def most_sorted(self) -> float:
        """How many rows went into the sort that took the most; one that goes by what is sorted already takes a part."""
        return max((_rows(n["Plans"][0]) for n in self._nodes if n["Node Type"] == "Sort"), default=0)

    def most_read(self) -> float:
        """How many rows the scan of a table or an index took that took the most, over all its rounds.

        A round that only looks something up counts as one: how many rows it read is told rounded by Postgres before 18.
        """
        scans = (n for n in self._nodes if "Relation Name" in n and n["Relation Name"] not in CONTROL_TABLES)
        return max(map(_taken, scans))


def _rows(node: dict[str, Any]) -> float:
    return float(node["Actual Rows"] * node["Actual Loops"])


def _taken(scan: dict[str, Any]) -> float:
    each = float(scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0))
    return float(scan["Actual Loops"]) * (1 if each <= LOOKED_UP else each)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)
