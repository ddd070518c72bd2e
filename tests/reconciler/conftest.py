from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import stamina

from sql.pages import put_page
from tests.reconciler.runs import NOW
from tests.reconciler.stage import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from sql.pool import Pool
    from sql.upsert import Connection


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Retries don't wait, and there are as many as in earnest."""
    with stamina.set_testing(True, attempts=5, cap=True):
        yield


@pytest.fixture
async def make_stage(pool: Pool) -> AsyncIterator[Callable[..., Awaitable[Stage]]]:
    """Build a stage whose Pages are known; closed at the end."""
    made: list[Stage] = []

    async def make(**options: Any) -> Stage:
        stage = Stage(pool, **options)
        made.append(stage)
        await stage.add_pages()
        return stage

    yield make
    for stage in made:
        await stage.http.aclose()


@pytest.fixture
async def two_pages(connection: Connection) -> None:
    """Pages 1 and 2, known and due."""
    for page_id in ("1", "2"):
        await put_page(connection, page_id, "sealed", None, now=NOW)
