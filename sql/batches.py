"""Cut rows into what one statement takes: sorted by key, no key twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

CONVERSATIONS_PER_STATEMENT = 100
ROWS_PER_STATEMENT = 500

Key: TypeAlias = tuple[str, ...]
Row = TypeVar("Row", bound=tuple[Any, ...])


def passes(rows: Iterable[Row], key: Callable[[Row], Key], size: int) -> Iterator[list[Row]]:
    """Sort rows by key and cut them into chunks of at most `size`, no key twice in a chunk.

    Identical rows are taken once. Rows that repeat a key come in later passes, whose keys are locked already.
    """
    rest = sorted(set(rows), key=key)
    while rest:
        this_pass: list[Row] = []
        next_pass: list[Row] = []
        last: Key | None = None
        for row in rest:
            row_key = key(row)
            (next_pass if row_key == last else this_pass).append(row)
            last = row_key
        yield from chunks(this_pass, size)
        rest = next_pass


def chunks(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Cut what is sorted into lists of at most `size`."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def columns(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Turn rows into a statement's arrays."""
    return zip(*rows, strict=True)


def first_two(row: Sequence[Any]) -> Key:
    """The key of most tables: (page_id, its own id)."""
    return (row[0], row[1])


def first_three(row: Sequence[Any]) -> Key:
    """The key of reactions: (page_id, mid, actor)."""
    return (row[0], row[1], row[2])
