"""What may happen to a spool's files and disk: removed under it, slow, without descriptors, a folder not yet there."""

from __future__ import annotations

import asyncio
import fcntl
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sql import spool as spool_module
from sql import spool_file
from sql.disk import sync_folder
from sql.spool import Spool, SpoolError
from sql.spool_file import SpoolFile
from tests.sql.test_spool import MIB, delivery, drained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sql.spool import Spooled


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def test_what_comes_after_somebody_removed_the_files_is_kept_in_new_ones(folder: Path) -> None:
    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(1))
        for path in folder.iterdir():
            path.unlink()
        await spool.put(delivery(2))
        (found,) = folder.glob("*.spool")
        assert found.stat().st_size > 0
        assert [d.id.int for d in await drained(spool)] == [1, 2]
        await spool.put(delivery(3))
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        await spool.put(delivery(4))
        assert len(list(folder.glob("*.spool"))) == 1
        assert [d.id.int for d in await drained(spool)] == [3, 4]


async def test_an_empty_file_that_somebody_removed_is_let_go(folder: Path) -> None:
    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(1))
        for path in folder.iterdir():
            path.unlink()
        assert [d.id.int for d in await drained(spool)] == [1]
        assert await drained(spool) == []
        await spool.put(delivery(2))
        assert [d.id.int for d in await drained(spool)] == [2]


async def test_what_waits_for_a_slow_disk_is_bounded_and_counts_for_the_spools_bound(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    put = SpoolFile.put

    def slow(self: SpoolFile, deliveries: Sequence[Spooled]) -> None:
        begun.set()
        go_on.wait()
        put(self, deliveries)

    monkeypatch.setattr(SpoolFile, "put", slow)
    monkeypatch.setattr(spool_module, "MAX_QUEUE_BYTES", 100)
    async with Spool(folder, max_bytes=150) as spool:
        first = asyncio.create_task(spool.put(delivery(1, bytes(60))))
        await asyncio.to_thread(begun.wait)
        with pytest.raises(SpoolError, match="too slow"):
            await spool.put(delivery(2, bytes(50)))
        second = asyncio.create_task(spool.put(delivery(3, bytes(40))))
        await asyncio.sleep(0)
        with pytest.raises(SpoolError, match="full"):
            await spool.put(delivery(4, bytes(60)))
        go_on.set()
        await asyncio.gather(first, second)
        await spool.put(delivery(5, bytes(50)))
        assert [d.id.int for d in await drained(spool)] == [1, 3, 5]


async def test_a_file_that_cannot_be_made_for_want_of_descriptors_keeps_none_of_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> None:
        raise OSError(24, "Too many open files")

    async with Spool(folder, max_bytes=MIB) as spool:
        await spool.put(delivery(1))
        await drained(spool)
    folder.mkdir(exist_ok=True)
    async with Spool(folder, max_bytes=MIB) as spool:
        before = open_files()
        with monkeypatch.context() as limited:
            limited.setattr(spool_file, "sync_folder", fails)
            for n in range(3):
                with pytest.raises(SpoolError, match="open files"):
                    await spool.put(delivery(n))
        assert open_files() <= before
        assert list(folder.iterdir()) == []
        await spool.put(delivery(4))
        assert [d.id.int for d in await drained(spool)] == [4]


async def test_a_folder_that_is_made_is_on_the_disk_before_the_first_delivery_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    sync = sync_folder

    def note(folder: Path) -> None:
        synced.append(folder)
        sync(folder)

    monkeypatch.setattr(spool_file, "sync_folder", note)
    async with Spool(tmp_path / "a" / "spool", max_bytes=MIB) as spool:
        await spool.put(delivery(1))
        assert {tmp_path, tmp_path / "a", tmp_path / "a" / "spool"} <= set(synced)


@pytest.mark.parametrize("is_at_start", [True, False])
async def test_an_adoption_that_is_cancelled_holds_nothing_after_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, is_at_start: bool
) -> None:
    async with Spool(folder, max_bytes=MIB) as dead:
        await dead.put(delivery(1))
    has_begun, may_end, adopt = threading.Event(), threading.Event(), SpoolFile.adopt

    def slowly(folder: Path) -> list[SpoolFile]:
        found = adopt(folder)
        has_begun.set()
        assert may_end.wait(60)
        return found

    async def cancel_in_its_midst(adopting: asyncio.Task[object]) -> None:
        assert await asyncio.to_thread(has_begun.wait, 60)
        adopting.cancel()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await adopting

    spool = Spool(folder, max_bytes=MIB)
    if is_at_start:
        monkeypatch.setattr(SpoolFile, "adopt", slowly)
        await cancel_in_its_midst(asyncio.create_task(spool.__aenter__()))
    else:
        (path,) = folder.glob("*.lock")
        with path.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            await spool.__aenter__()
        monkeypatch.setattr(SpoolFile, "adopt", slowly)
        await cancel_in_its_midst(asyncio.create_task(spool.adopt()))
        await spool.__aexit__()
    monkeypatch.undo()
    async with Spool(folder, max_bytes=MIB) as next_one:
        assert [d.id.int for d in await drained(next_one)] == [1]


async def test_a_file_that_cannot_be_closed_keeps_no_other_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close, closed = SpoolFile.close, 0

    def fails_once(file: SpoolFile) -> None:
        nonlocal closed
        close(file)
        closed += 1
        if closed == 1:
            raise OSError("no")

    async with Spool(folder, max_bytes=MIB) as dead:
        await dead.put(delivery(1))
    spool = await Spool(folder, max_bytes=MIB).__aenter__()
    await spool.put(delivery(2))
    monkeypatch.setattr(SpoolFile, "close", fails_once)
    with pytest.raises(OSError, match="no"):
        await spool.__aexit__()
    assert closed == 2
