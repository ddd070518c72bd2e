from __future__ import annotations

import asyncpg
import pytest
from asyncpg.exceptions import _base as asyncpg_base

from sql.errors import Refusal, is_away, refusal_of


def refused(sqlstate: str) -> BaseException:
    """An error as asyncpg makes it of the server's words."""
    return asyncpg.PostgresError.new({"C": sqlstate, "M": "no", "S": "ERROR"})


@pytest.mark.parametrize("sqlstate", ["40P01", "40001", "55P03"])
def test_what_was_only_a_bad_moment_is_retried(sqlstate: str) -> None:
    assert refusal_of(refused(sqlstate)) is Refusal.RETRY


@pytest.mark.parametrize("sqlstate", ["21000", "22001", "22003", "22021", "22P05", "23502", "23505", "54000", "54001"])
def test_what_the_data_is_refused_for_is_searched_for_the_bad_item(sqlstate: str) -> None:
    assert refusal_of(refused(sqlstate)) is Refusal.SPLIT


@pytest.mark.parametrize(
    "sqlstate",
    [
        *("08000", "08006", "08P01", "53100", "53200", "53300", "57014", "57P01", "57P03", "58030", "58P01"),
        *("25006", "25P02", "28000", "40002", "40003", "42501", "42P01", "55000", "0A000", "26000", "P0001", "XX000"),
        "ZZ999",  # of no class that asyncpg knows
    ],
)
def test_whatever_else_the_server_says_is_never_the_datas_fault(sqlstate: str) -> None:
    assert refusal_of(refused(sqlstate)) is Refusal.UNAVAILABLE


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("gone"),
        OSError(28, "No space left on device"),
        TimeoutError(),
        asyncpg.InterfaceError("the pool is closing"),
        asyncpg.InternalClientError("got result for unknown protocol state"),
        RuntimeError("ours"),
    ],
)
def test_a_connection_or_a_program_that_fails_is_never_the_datas_fault(error: Exception) -> None:
    assert refusal_of(error) is Refusal.UNAVAILABLE


@pytest.mark.parametrize(
    "error",
    [
        asyncpg_base.DataError("invalid input for query argument $1"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        OverflowError("value out of int32 range"),
    ],
)
def test_a_value_that_cannot_be_put_on_the_wire_is_the_datas_fault(error: Exception) -> None:
    assert refusal_of(error) is Refusal.SPLIT


def test_a_day_without_partition_is_the_journals_fault_and_a_check_the_datas() -> None:
    refusal = {"C": "23514", "M": 'no partition of relation "webhook_deliveries" found for row', "S": "ERROR"}
    no_partition = refusal | {"t": "webhook_deliveries"}
    assert refusal_of(asyncpg.PostgresError.new(no_partition)) is Refusal.RETRY
    assert refusal_of(asyncpg.PostgresError.new(no_partition | {"n": "messages_mid_check"})) is Refusal.SPLIT
    assert refusal_of(asyncpg.PostgresError.new(refusal)) is Refusal.SPLIT


@pytest.mark.parametrize(
    "error",
    [
        *(refused(state) for state in ("08006", "53100", "53300", "57P01", "57P03", "58030", "25006")),
        *(ConnectionResetError("gone"), TimeoutError(), asyncpg.InterfaceError("the pool is closing")),
    ],
)
def test_what_every_writer_would_meet_now_is_postgres_away(error: Exception) -> None:
    assert is_away(error)


@pytest.mark.parametrize(
    "error",
    [
        *(refused(state) for state in ("57014", "P0001", "42P01", "40001", "22021", "XX000")),
        *(asyncpg_base.DataError("invalid input"), RuntimeError("ours")),
    ],
)
def test_what_may_be_the_fault_of_what_is_written_is_not_postgres_away(error: Exception) -> None:
    assert not is_away(error)
