from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from sql.pool import connect
from tests.bench import mirror
from tests.bench.mirror import Scale, make_mirror
from tests.bench.reads import FULL, OURS, Read, Reads, judged

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = Scale(conversations=2_000, messages=20_000, pages=1)


@pytest.fixture
def _this_server_is_not_only_ours() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror, "WHILE_FILLED", {})
        yield


@pytest.mark.usefixtures("_this_server_is_not_only_ours")
async def test_every_way_to_read_gives_as_many_rows_as_the_mirrors_and_more_than_none(empty_database: str) -> None:
    await make_mirror(empty_database, SMALL)
    connection = await connect(empty_database)
    try:
        assert await connection.fetchval("SELECT count(*) FROM messages") == SMALL.messages
        assert await connection.fetchval("SELECT count(*) FROM conversations") == SMALL.conversations
        reads = await Reads(connection, SMALL, times=1).run()
        with pytest.raises(ValueError, match="holds a mirror of"):
            await make_mirror(empty_database, SMALL._replace(pages=2))
    finally:
        await connection.close()
    rows: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for read in reads:
        rows[read.what][read.by] = read.rows
    compared = {what: found for what, found in rows.items() if len(found) > 1}
    assert len(compared) == 7
    assert [what for what, found in compared.items() if "deep" not in what and len(set(found.values())) != 1] == []
    assert {what for what, found in rows.items() if not all(found.values())} <= {
        what for what in rows if "rare" in what
    }


def test_pages_are_judged_by_the_worst_and_only_at_full_scale() -> None:
    def read(what: str, ms: float, *, is_page: bool = True) -> Read:
        return Read(what, OURS, 51, ms, 1.0, is_page)

    reads = [read("list", 14.0), read("list, deep", 16.0), read("messages", 4.0), read("list plain", 99, is_page=False)]
    assert [(v.found, v.holds) for v in judged(reads, FULL)] == [
        ("at most 16.0 x: list, deep", False),
        ("at most 4.0 x: messages", True),
    ]
    for less in (SMALL, FULL._replace(messages=FULL.messages - 1), Scale(conversations=2_000_000, messages=10_000)):
        assert judged(reads, less) == []
