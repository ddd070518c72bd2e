from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from sql import spool_file, spool_folder
from sql.spool import DRAIN_BYTES, DRAIN_ROWS, PassOverError, Spool, Spooled, SpoolError
from sql.spool_file import SpoolFile
from sql.spool_folder import look_into

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2031, 3, 4, 5, 6, 7, 891_011, tzinfo=UTC)
MIB = 2**20


def delivery(number: int, body: bytes = b"{}") -> Spooled:
    return Spooled(UUID(int=number), START + timedelta(microseconds=number), body)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def drained(spool: Spool) -> list[Spooled]:
    found: list[Spooled] = []

    async def write(deliveries: list[Spooled]) -> None:
        found.extend(deliveries)

    while await spool.drain_once(write):
        pass
    return found


async def test_what_goes_in_comes_out_as_it_was_oldest_first(folder: Path) -> None:
    sent = [delivery(n, os.urandom(n)) for n in range(1, DRAIN_ROWS + 50)]
    async with Spool(folder, max_bytes=MIB) as spool:
        await asyncio.gather(*(spool.put(d) for d in sent))
        assert (spool.depth, spool.bytes, spool.oldest) == (
            len(sent),
            sum(len(d.body) for d in sent),
            START + timedelta(microseconds=1),
        )
        assert await drained(spool) == sent
        assert (spool.depth, spool.bytes, spool.oldest) == (0, 0, None)


async def test_the_same_delivery_twice_is_one(folder: Path) -> None:
    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(1, b"first"))
        await spool.put(delivery(1, b"again"))
        assert (spool.depth, spool.bytes) == (1, 5)
        assert await drained(spool) == [delivery(1, b"first")]


async def test_deliveries_stay_when_whoever_drains_them_fails(folder: Path) -> None:
    async def fails(_: list[Spooled]) -> None:
        raise ConnectionError

    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(1))
        with pytest.raises(ConnectionError):
            await spool.drain_once(fails)
        assert await drained(spool) == [delivery(1)]


async def test_a_drain_takes_a_bounded_number_of_bytes_but_at_least_one_delivery(folder: Path) -> None:
    large = [delivery(n, bytes(DRAIN_BYTES // 2 + 1)) for n in range(3)]
    sizes: list[int] = []

    async def write(deliveries: list[Spooled]) -> None:
        sizes.append(len(deliveries))

    async with Spool(folder, max_bytes=4 * DRAIN_BYTES) as spool:
        for one in large:
            await spool.put(one)
        while await spool.drain_once(write):
            pass
    assert sizes == [1, 1, 1]


async def test_a_full_spool_refuses_and_keeps_what_it_has(folder: Path) -> None:
    async with Spool(folder, max_bytes=100) as spool:
        await spool.put(delivery(1, bytes(60)))
        with pytest.raises(SpoolError, match="full"):
            await spool.put(delivery(2, bytes(41)))
        await spool.put(delivery(3, bytes(40)))
        assert [d.id.int for d in await drained(spool)] == [1, 3]
        await spool.put(delivery(2, bytes(41)))
        assert spool.depth == 1


async def test_a_folder_that_cannot_be_made_stops_no_start_and_is_told_by_put(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with Spool(tmp_path / "file" / "spool", max_bytes=MIB) as spool:
        with pytest.raises(SpoolError, match="SPOOL_DIR"):
            await spool.put(delivery(1))
        assert spool.depth == 0


async def test_an_orderly_end_leaves_nothing_of_an_empty_file_and_all_of_another(folder: Path) -> None:
    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(1))
        await drained(spool)
    assert list(folder.iterdir()) == []
    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(2))
    async with Spool(folder, max_bytes=MIB) as spool:
        assert await drained(spool) == [delivery(2)]
    assert list(folder.iterdir()) == []


async def test_a_file_in_use_is_adopted_by_nobody(folder: Path) -> None:
    async with Spool(folder, max_bytes=MIB) as one, Spool(folder, max_bytes=MIB) as other:
        await one.put(delivery(1))
        assert await other.adopt() == 0
        assert await drained(other) == []
        assert await drained(one) == [delivery(1)]


CHILD = """
import asyncio, sys
from pathlib import Path
from uuid import UUID
from datetime import UTC, datetime
from sql.spool import Spool, Spooled

async def main():
    async with Spool(Path(sys.argv[1]), max_bytes=1 << 30) as spool:
        n = 0
        while True:
            n += 1
            await spool.put(Spooled(UUID(int=n), datetime.now(UTC), b"x" * 1000))
            print(n, flush=True)

asyncio.run(main())
"""


async def test_what_a_killed_process_was_told_is_durable_is_adopted_by_another(folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if int(line) == 50:
                break
    finally:
        child.send_signal(signal.SIGKILL)
    told = max([50, *(int(line) for line in child.stdout.read().split("\n")[:-1] if line)])
    child.stdout.close()
    child.wait()
    async with Spool(folder, max_bytes=MIB) as spool:
        found = [d.id.int for d in await drained(spool)]
    assert found[:told] == list(range(1, told + 1))
    assert len(found) <= told + 1  # one may be on the disk and not told yet
    assert list(folder.iterdir()) == []


async def test_a_lock_without_its_file_is_cleared_away(folder: Path) -> None:
    folder.mkdir()
    (folder / "0123.lock").write_text("")
    async with Spool(folder, max_bytes=MIB) as spool:
        assert await drained(spool) == []
    assert list(folder.iterdir()) == []


def test_a_file_that_is_no_database_stays_for_a_person(folder: Path) -> None:
    folder.mkdir()
    (folder / "0123.lock").write_text("")
    (folder / "0123.spool").write_bytes(b"not a database, " * 100)
    assert SpoolFile.adopt(folder) == []
    assert (folder / "0123.spool").exists()


async def test_what_could_not_be_written_has_its_turn_after_all_others_in_ever_smaller_groups(folder: Path) -> None:
    groups: list[list[int]] = []

    async def write(deliveries: list[Spooled]) -> None:
        groups.append([d.id.int for d in deliveries])
        if any(d.id.int == 70 for d in deliveries):
            raise PassOverError

    async with Spool(folder, max_bytes=MIB) as spool:
        for n in range(100):
            await spool.put(delivery(n))
        for _ in range(50):
            with suppress(PassOverError):
                await spool.drain_once(write)
        assert spool.depth == 1
        assert groups[0] == list(range(100))
        assert [70] in groups
        assert len({n for group in groups for n in group}) == 100
        await spool.put(delivery(200))
        await spool.drain_once(write)
        assert groups[-1] == [200]
        assert spool.depth == 1
    async with Spool(folder, max_bytes=MIB) as spool:
        assert [d.id.int for d in await drained(spool)] == [70]


async def test_a_file_of_another_process_that_breaks_holds_up_no_other_and_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(1))
    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(2))
        broken = spool._adopted[0].name
        read = SpoolFile.next

        def fails(self: SpoolFile, *, limit: int, max_bytes: int) -> list[Spooled]:
            if self.name == broken:
                raise SpoolError("disk I/O error")
            return read(self, limit=limit, max_bytes=max_bytes)

        monkeypatch.setattr(SpoolFile, "next", fails)
        assert await drained(spool) == [delivery(2)]
    monkeypatch.undo()
    async with Spool(folder, max_bytes=MIB) as spool:
        assert await drained(spool) == [delivery(1)]


async def test_a_file_that_grew_large_is_given_back_when_it_is_empty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_file, "LARGEST_EMPTY_FILE", 0)
    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(1))
        await drained(spool)
        assert list(folder.iterdir()) == []
        await spool.put(delivery(2))
        assert await drained(spool) == [delivery(2)]


async def test_it_tells_what_speaks_against_keeping_a_delivery(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Spool(folder, max_bytes=MIB) as spool:
        assert await spool.trouble() is None
        assert not folder.exists()
        monkeypatch.setattr(spool_folder, "LEAST_FREE_BYTES", 1 << 62)
        assert "the disk of SPOOL_DIR" in str(await spool.trouble())
    async with Spool(folder, max_bytes=0) as spool:
        assert "SPOOL_MAX_BYTES is 0" in str(await spool.trouble())
    (tmp_path / "file").write_text("")
    async with Spool(tmp_path / "file" / "spool", max_bytes=MIB) as spool:
        assert "can't be written" in str(await spool.trouble())
        with pytest.raises(SpoolError):
            await spool.put(delivery(1))
        assert "can't be used" in str(await spool.trouble())


async def test_a_folder_that_may_not_even_be_looked_into_stops_no_start_and_is_told(tmp_path: Path) -> None:
    folder = tmp_path / ("n" * 300) / "spool"  # the system refuses the look itself, as it does for want of rights
    async with Spool(folder, max_bytes=MIB) as spool:
        assert "can't be written" in str(await spool.trouble())
        with pytest.raises(SpoolError, match="can't be used"):
            await spool.put(delivery(1))
    assert look_into(folder) == (0, 0, 0, None, [])


async def test_a_folder_is_looked_into_without_touching_what_another_process_holds(folder: Path) -> None:
    assert look_into(folder) == (0, 0, 0, None, [])
    async with Spool(folder, max_bytes=MIB) as one:
        await one.put(delivery(1, b"12345"))
        await one.put(delivery(2, b"12345"))
        async with Spool(folder, max_bytes=MIB) as other:
            await other.put(delivery(3, b"123"))
            (folder / "0123.spool").write_bytes(b"not a database, " * 100)
            found = look_into(folder)
            assert found == (3, 3, 13, START + timedelta(microseconds=1), ["0123.spool"])
            assert await drained(one) == [delivery(1, b"12345"), delivery(2, b"12345")]
            assert look_into(folder)[1] == 1


class Full:
    """A database whose disk is full: whatever would write fails, but what is read is read."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.total_changes = 0
        self.in_transaction = False

    def executemany(self, *_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def execute(self, statement: str, *values: Any) -> Any:
        return self._db.execute(statement, *values) if statement.startswith("SELECT") else None

    def close(self) -> None:
        self._db.close()


async def test_on_a_full_disk_it_is_drained_all_the_same_and_its_room_given_back(folder: Path) -> None:
    """To take something out of a file takes room, too."""
    found: list[int] = []

    async def write(deliveries: list[Spooled]) -> None:
        if any(d.id.int == 2 for d in deliveries) and found.count(1) < 3:
            if len(deliveries) == 1:
                found.append(1)
            raise PassOverError
        found.extend(d.id.int for d in deliveries)

    async with Spool(folder, max_bytes=10 * DRAIN_BYTES) as spool:
        for n in range(5):
            await spool.put(delivery(n, bytes(DRAIN_BYTES // 2)))
        assert spool._own is not None
        spool._own._db = Full(spool._own._db)  # type: ignore[assignment]
        with pytest.raises(SpoolError, match="full"):
            await spool.put(delivery(9))
        failures = 0
        for _ in range(20):
            try:
                await spool.drain_once(write)
            except (SpoolError, PassOverError):
                failures += 1
        assert set(found) == {0, 1, 2, 3, 4}
        assert (spool.depth, spool.bytes, spool.oldest) == (0, 0, None)
        assert list(folder.iterdir()) == []
        await spool.put(delivery(10))
        assert await drained(spool) == [delivery(10)]


async def test_a_file_that_cannot_be_made_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: SpoolFile) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async with Spool(folder, max_bytes=MIB) as spool:
        with monkeypatch.context() as full:
            full.setattr(SpoolFile, "_recount", fails)
            for n in range(3):
                with pytest.raises(SpoolError, match="full"):
                    await spool.put(delivery(n))
        assert list(folder.iterdir()) == []
        await spool.put(delivery(4))
        assert spool.depth == 1


@pytest.mark.parametrize("is_adopted", [False, True])
def test_a_file_waits_for_the_disk_at_every_commit(folder: Path, *, is_adopted: bool) -> None:
    file = SpoolFile.create(folder)
    file.put([delivery(1)])
    if is_adopted:
        file.close()
        [file] = SpoolFile.adopt(folder)
    # what no kill of a process can show: a power cut takes what was not asked for to be on the disk
    assert file._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert file._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    file.close()
