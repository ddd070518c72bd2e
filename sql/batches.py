"""Cut rows into what one statement takes: sorted by key, no key twice."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

CONVERSATIONS_PER_STATEMENT = 100
ROWS_PER_STATEMENT = 500

Key: TypeAlias = tuple[str, ...]
Row = TypeVar("Row", bound=tuple[Any, ...])

first_two: Callable[[Sequence[Any]], Key] = itemgetter(0, 1)  # the key of most tables: (page_id, its own id)
first_three: Callable[[Sequence[Any]], Key] = itemgetter(0, 1, 2)  # the key of reactions: (page_id, mid, actor)


def passes(rows: Iterable[Row], key: Callable[[Row], Key], size: int) -> Iterator[list[Row]]:
    """Sort rows by key and cut them into chunks of at most `size`, no key twice in a chunk.

    Identical rows are taken once. Rows that repeat a key come in later passes, whose keys are locked already.
    """
    rest = sorted(rows, key=key)
    while rest:
        this_pass: list[Row] = []
        next_pass: list[Row] = []
        last: Row | None = None
        last_key: Key | None = None
        for row in rest:
            row_key = key(row)
            if row_key != last_key:
                this_pass.append(row)
                last, last_key = row, row_key
            elif row != last:
                next_pass.append(row)
        yield from chunks(this_pass, size)
        rest = next_pass


def numbered(rows: Iterable[tuple[Any, ...]], key: Callable[[Any], Key], size: int) -> list[tuple[Any, ...]]:
    """Return the rows of all passes, each behind the number of its chunk: what a table's function takes."""
    return [(number, *row) for number, chunk in enumerate(passes(rows, key, size), 1) for row in chunk]


def chunks(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Cut what is sorted into lists of at most `size`."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def columns(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Turn rows into a statement's arrays."""
    return zip(*rows, strict=True)
