"""The errors of this folder, and what a refusal of Postgres means for the group that was refused.

SqlError
├── MigrationError      the schema can't be brought to what this version needs; the start stops
├── StaleLease          another worker holds the Page now: roll back and stop
├── JournalChanged      what is replayed is not in the journal any more as it was read: read it again
└── TellsOfErased       a group tells of a person who was erased: it needs to be looked through
"""

from __future__ import annotations

from enum import Enum

import asyncpg
from asyncpg.exceptions import _base as asyncpg_base


class SqlError(Exception):
    """The database layer can't do what was asked."""


class MigrationError(SqlError):
    """The schema can't be brought to what this version needs."""


class StaleLease(SqlError):  # noqa: N818 - it is a fact about the lease, named as such
    """Another worker holds this Page now; nothing of this step was stored."""


class JournalChanged(SqlError):  # noqa: N818 - it is a fact about the journal, named as such
    """Something was taken out of these deliveries since they were read; nothing was stored."""


class TellsOfErased(SqlError):  # noqa: N818 - it is a fact about the group, named as such
    """Deliveries tell of a person who was erased; nothing was stored."""


class Refusal(Enum):
    """What to do with a group of writes that Postgres refused."""

    RETRY = "retry the whole group"
    SPLIT = "look for the bad item"
    UNAVAILABLE = "Postgres can't take it now"


_RETRY = {"40P01", "40001", "55P03"}  # deadlock, serialization failure, lock not available
# connection, resources (a full disk), operator's intervention, system: these come to every writer alike
_AWAY = {"08", "53", "57", "58"}
_QUERY_CANCELED = "57014"  # a statement_timeout: one query was too slow
_READ_ONLY = "25006"  # a standby that is not promoted yet
_DATA = "22"
_SPLIT = {"21", _DATA, "23", "54"}  # cardinality, data, integrity, program limit: this data, not this moment


def refusal_of(error: BaseException) -> Refusal:
    """Sort an error of a write by its SQLSTATE; what is not known to be the data's fault never drops data."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state in _RETRY or _is_partition_missing(error):
            return Refusal.RETRY
        return Refusal.SPLIT if state[:2] in _SPLIT else Refusal.UNAVAILABLE
    if isinstance(error, (asyncpg_base.DataError, UnicodeError, OverflowError)):
        return Refusal.SPLIT  # a value that could not even be put on the wire
    return Refusal.UNAVAILABLE


def describe(error: BaseException) -> str:
    """Name an error of a write without its detail lines: those quote values."""
    state = getattr(error, "sqlstate", None)
    return type(error).__name__ + (f" ({state})" if state else "")


def forget_values(error: BaseException | None) -> None:
    """Take the values that errors of Postgres quote out of an error and of those it came from, for a traceback.

    A detail quotes whole rows; that a value was refused is said with the value, by the server and by asyncpg.
    """
    while error is not None:
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None
            if (error.sqlstate or "").startswith(_DATA):
                error.args = ("a value was refused",)
        elif isinstance(error, asyncpg_base.DataError):
            error.args = ("a value could not be put on the wire",)
            error.__cause__, error.__suppress_context__ = None, True
        if isinstance(error, BaseExceptionGroup):
            for one in error.exceptions:
                forget_values(one)
        error = error.__cause__ or error.__context__


def is_away(error: BaseException) -> bool:
    """Tell whether an error says that Postgres can't be reached or takes nothing now, whoever writes whatever."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return (state[:2] in _AWAY and state != _QUERY_CANCELED) or state == _READ_ONLY
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # a value that could not be put on the wire is one
    return isinstance(error, OSError)  # TimeoutError is one


def _is_partition_missing(error: asyncpg.PostgresError) -> bool:
    # "no partition of relation found for row" comes as a violated CHECK of a table and of no constraint; an owner's
    # own trigger that raises one names neither
    return isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None and bool(error.table_name)
