"""One file of the spool: deliveries that wait on the local disk until Postgres takes them. SQLite, one writer.

A commit is on the disk when it returns (WAL, `synchronous=FULL`). Who uses a file holds a lock beside it, which the
kernel drops when the process ends, however it ends: a file whose lock is free belongs to nobody and may be adopted.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sql.disk import sync_folder
from sql.spool_folder import files_in
from sql.spool_pass import SpoolPass
from sql.spool_row import instant, microseconds, take

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from sql.spool_row import Spooled

LARGEST_EMPTY_FILE = 64 * 2**20
_SUFFIXES = (".spool", ".spool-wal", ".spool-shm", ".lock")


class SpoolError(Exception):
    """The spool can't take or give deliveries: its folder can't be written, or its disk is full."""


class SpoolFile:
    """A file that this process holds, with `count` deliveries of `bytes` in all. Not for several threads at once.

    `oldest_at` is when the first of them came in, None when it is empty.
    """

    count: int
    bytes: int
    oldest_at: datetime | None

    def __init__(self, folder: Path, name: str, lock: int) -> None:
        self._folder, self.name, self._lock = folder, name, lock
        self._pass: SpoolPass | None = None
        try:
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise
        except (sqlite3.Error, OSError) as error:
            os.close(lock)
            raise SpoolError(f"{folder / name}.spool can't be used: {error}") from error

    @property
    def _path(self) -> Path:
        return self._folder / f"{self.name}.spool"

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(
            """
            CREATE TABLE IF NOT EXISTS spooled (
                n integer PRIMARY KEY, id blob NOT NULL UNIQUE, received_at_us integer NOT NULL, body blob NOT NULL,
                attempts integer NOT NULL DEFAULT 0
            )
            """
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS spooled_in_turn ON spooled (attempts, n)")
        sync_folder(self._folder)  # else the file itself may be gone after a power cut, with all that is in it
        found = self._path.stat()
        self._is_this = (found.st_dev, found.st_ino)
        self._recount()

    @classmethod
    def create(cls, folder: Path) -> SpoolFile:
        """Make a new file.

        Raises:
            SpoolError: the folder can't be used.

        """
        try:
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for made in missing:
                sync_folder(made.parent)
            while True:
                name = uuid4().hex
                lock = _take_lock(folder / f"{name}.lock")
                if lock is not None:  # else who adopts was faster than we, between our two steps
                    break
            try:
                return cls(folder, name, lock)
            except SpoolError:  # each delivery tries anew: nothing of it may stay
                _unlink(folder, name)
                raise
        except OSError as error:
            raise SpoolError(f"SPOOL_DIR ({folder}) can't be used: {error}") from error

    @classmethod
    def adopt(cls, folder: Path) -> list[SpoolFile]:
        """Take over the files of processes that are gone, also of those that left only a lock."""
        found = []
        for path in files_in(folder, "*.lock"):
            try:
                lock = _take_lock(path)
                if lock is not None:
                    found.append(cls(folder, path.stem, lock))
            except (OSError, SpoolError):  # removed meanwhile by who adopted it, or unreadable: it stays for a person
                continue
        return found

    def put(self, deliveries: Sequence[Spooled]) -> None:
        """Store deliveries; on the disk when it returns. One that is there already is left as it is.

        Raises:
            SpoolError: none of them is stored.

        """
        rows = [(d.id.bytes, microseconds(d.received_at), d.body) for d in deliveries]
        changed = self._change("INSERT OR IGNORE INTO spooled (id, received_at_us, body) VALUES (?, ?, ?)", rows)
        self._count(deliveries, changed, 1)

    def next(self, *, limit: int, max_bytes: int) -> list[Spooled]:
        """Read the deliveries whose turn it is: the least attempted, of those the oldest.

        At most `limit`, and at most about `max_bytes` of bodies, but one at least. Those that failed are read in
        smaller and smaller groups, so that a bad one stands alone after a few attempts.

        Raises:
            SpoolError: the file can't be read.

        """
        try:
            if self._pass is not None:
                return self._pass.next(limit=limit, max_bytes=max_bytes)
            (attempts,) = self._db.execute("SELECT COALESCE(min(attempts), 0) FROM spooled").fetchone()
            rows = self._db.execute(
                "SELECT n, id, received_at_us, body, attempts FROM spooled WHERE attempts = ? ORDER BY n LIMIT ?",
                (attempts, max(1, limit >> (2 * attempts))),
            )
            found = take(rows, max_bytes)
            rows.close()
        except sqlite3.Error as error:
            raise SpoolError(f"the spool can't be read: {error}") from error
        return [delivery for _, delivery in found]

    def remove(self, deliveries: Sequence[Spooled]) -> None:
        """Forget deliveries that Postgres has, which `next` gave.

        Raises:
            SpoolError: they stay; what Postgres has and is written again meets itself there.

        """
        if self._pass is None:
            try:
                changed = self._change("DELETE FROM spooled WHERE id = ?", [(d.id.bytes,) for d in deliveries])
            except SpoolError:
                self._pass = SpoolPass(self._db)
                raise
        else:
            self._pass.done(deliveries)
            changed = len(deliveries)
        self._count(deliveries, changed, -1)

    def pass_over(self, deliveries: Sequence[Spooled]) -> None:
        """Let all others have their turn before these, which `next` gave and could not be written.

        Raises:
            SpoolError: it can't be noted.

        """
        if self._pass is not None:
            self._pass.pass_over(deliveries)
            return
        try:
            self._change("UPDATE spooled SET attempts = attempts + 1 WHERE id = ?", [(d.id.bytes,) for d in deliveries])
        except SpoolError:
            self._pass = SpoolPass(self._db)
            raise

    @property
    def is_in_place(self) -> bool:
        """Whether it still stands in its folder: what is written into a file that somebody removed ends with us."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._is_this

    @property
    def is_spent(self) -> bool:
        """Whether an empty file is better removed than used again: it does not shrink when deliveries leave it."""
        if self.count or not self.is_in_place:
            return not self.count
        return self._pass is not None or self._path.stat().st_size > LARGEST_EMPTY_FILE

    def _change(self, statement: str, rows: list[tuple[Any, ...]]) -> int:
        """Run a statement for each row, in one transaction; returns how many rows it changed."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            before = self._db.total_changes
            self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            raise SpoolError(f"the spool can't be written: {error}") from error
        return self._db.total_changes - before

    def close(self) -> None:
        """Let the file go; an empty one is removed, one that holds something is for whoever adopts it."""
        is_empty = self.count == 0
        self._db.close()
        if is_empty:
            _unlink(self._folder, self.name)
        os.close(self._lock)

    def _undo(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _count(self, deliveries: Sequence[Spooled], changed: int, sign: int) -> None:
        """Follow a change without reading the file, which may be large; but for a repetition, which is rare."""
        if changed == len(deliveries):
            self.count += sign * changed
            self.bytes += sign * sum(len(d.body) for d in deliveries)
            self._find_oldest()
        else:
            self._recount()

    def _recount(self) -> None:
        self.count, self.bytes = self._db.execute(
            "SELECT count(*), COALESCE(sum(length(body)), 0) FROM spooled"
        ).fetchone()
        self._find_oldest()

    def _find_oldest(self) -> None:
        if self._pass is not None:
            self.oldest_at = self._pass.oldest_at()
            return
        first = self._db.execute("SELECT received_at_us FROM spooled ORDER BY n LIMIT 1").fetchone()
        self.oldest_at = None if first is None else instant(first[0])


def _take_lock(path: Path) -> int | None:
    """Open and lock a file; None when another process holds it, or it is no longer the one in the folder."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise BlockingIOError  # who adopted it has just removed it
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _unlink(folder: Path, name: str) -> None:
    for suffix in _SUFFIXES:
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
