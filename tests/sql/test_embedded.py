from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import asyncpg
import pytest

from sql import embedded, embedded_postmaster
from sql.embedded_postmaster import Postmaster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sql.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
AS_ROOT = os.geteuid() == 0


class User(NamedTuple):
    """Another process that uses the server."""

    process: subprocess.Popen[str]
    dsn: str

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)


def new_folder() -> Path:
    """A folder that any account can pass: pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="mirror-embedded-"))
    made.chmod(0o777)
    return made


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    """A folder in which a server ran once; initdb waits for the disk, a copy does not."""
    made = new_folder()
    embedded.start(made).stop()
    yield made
    shutil.rmtree(made)


def copy(initialised: Path, folder: Path) -> Path:
    folder.mkdir(mode=0o777, exist_ok=True)
    subprocess.run(["cp", "-a", initialised / "postgres", folder / "postgres"], check=True)
    return folder


@pytest.fixture
def used(initialised: Path, folder: Path) -> Path:
    """A folder of the test's own in which a server ran once."""
    return copy(initialised, folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder; what still runs in it is stopped at the end."""
    made = new_folder()
    try:
        yield made
        for data in made.glob("**/postgres/data"):
            assert Postmaster(data).pid() is None, "a server was left running"
    finally:
        for data in made.glob("**/postgres/data"):
            Postmaster(data).stop()
        shutil.rmtree(made)


@contextmanager
def said(folder: Path, account: str | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run another process on the folder, and hear the first thing that it says."""
    command = [sys.executable, "-m", "tests.sql.embedded_user", str(folder), *([account] if account else [])]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def user(folder: Path, account: str | None = None) -> Iterator[User]:
    with said(folder, account) as (process, line):
        word, _, dsn = line.partition(" ")
        assert word == "ready", line
        yield User(process, dsn)


@contextmanager
def started(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = embedded.start(folder)
    try:
        yield server
    finally:
        server.stop()


def postmaster(folder: Path) -> int:
    pid = Postmaster(folder / "postgres" / "data").pid()
    assert pid is not None
    return pid


def is_stopped(folder: Path) -> bool:
    return Postmaster(folder / "postgres" / "data").pid() is None


async def ask(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        answer: object = await connection.fetchval(query)
        return answer
    finally:
        await connection.close()


async def test_a_server_starts_in_an_empty_folder_and_knows_its_data_after_a_stop(folder: Path) -> None:
    with started(folder) as server:
        await ask(server.dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        assert await ask(server.dsn, "SHOW listen_addresses") == ""
        assert await ask(server.dsn, "SELECT datcollate || datctype FROM pg_database WHERE datname = 'postgres'")
        assert await ask(server.dsn, "SHOW synchronous_commit") == "on"
        first = postmaster(folder)
        server.stop()
        assert is_stopped(folder)
    with started(folder) as server:
        assert postmaster(folder) != first
        assert await ask(server.dsn, "SELECT n FROM kept") == 7


def test_root_runs_the_server_as_an_account_without_rights_and_others_as_themselves(used: Path) -> None:
    with started(used):
        owner = (used / "postgres" / "data").stat().st_uid
        ours = Path(f"/proc/{postmaster(used)}").stat().st_uid if Path("/proc").is_dir() else owner
        assert ours == owner
        assert owner in ({pwd.getpwnam(n).pw_uid for n in ("postgres", "nobody")} if AS_ROOT else {os.geteuid()})


async def test_an_ordinary_user_has_a_server_of_its_own_that_root_can_join(folder: Path) -> None:
    account = "nobody" if AS_ROOT else None
    expected = pwd.getpwnam("nobody").pw_uid if AS_ROOT else os.geteuid()
    with user(folder, account) as other:
        assert (folder / "postgres" / "data").stat().st_uid == expected
        with started(folder) as server:
            assert server.dsn == other.dsn
            assert await ask(server.dsn, "SELECT 1") == 1
        assert not is_stopped(folder)
        other.leave()
    assert is_stopped(folder)


async def test_the_last_of_several_processes_out_stops_the_server(used: Path) -> None:
    with started(used) as server, user(used) as other:
        pid = postmaster(used)
        assert other.dsn == server.dsn
        server.stop()
        server.stop()
        assert postmaster(used) == pid
        assert await ask(other.dsn, "SELECT 1") == 1
        other.leave()
        assert is_stopped(used)


async def test_processes_that_start_together_share_one_server(folder: Path) -> None:
    with ExitStack() as stack:
        command = [sys.executable, "-m", "tests.sql.embedded_user", str(folder)]
        options = {"cwd": ROOT, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        starting = [stack.enter_context(subprocess.Popen(command, **options)) for _ in range(3)]  # type: ignore[call-overload]
        lines = [process.stdout.readline() for process in starting]
        assert len(set(lines)) == 1
        assert lines[0].startswith("ready ")
        for process in starting[1:]:
            User(process, "").leave()
        assert await ask(lines[0].split()[1], "SELECT 1") == 1
        User(starting[0], "").leave()
    assert is_stopped(folder)


async def test_a_killed_process_leaves_a_server_that_the_next_one_joins_and_stops(used: Path) -> None:
    with user(used) as other:
        await ask(other.dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        pid = postmaster(used)
        other.kill()
        assert postmaster(used) == pid
    with started(used) as server:
        assert postmaster(used) == pid
        assert await ask(server.dsn, "SELECT n FROM kept") == 7
    assert is_stopped(used)


async def test_a_killed_server_recovers_what_was_committed(used: Path) -> None:
    with user(used) as other:
        await ask(other.dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        killed = postmaster(used)
        other.kill()
        os.kill(killed, signal.SIGKILL)
    with started(used) as server:
        assert postmaster(used) != killed
        assert await ask(server.dsn, "SELECT n FROM kept") == 7


async def test_a_server_killed_under_its_user_is_no_trouble_at_the_end_and_starts_again(used: Path) -> None:
    with started(used) as server:
        os.kill(postmaster(used), signal.SIGKILL)
        server.stop()
    with started(used) as server:
        assert await ask(server.dsn, "SELECT 1") == 1


async def test_a_server_killed_under_its_user_can_be_revived_at_the_same_address_with_all_that_was_committed(
    used: Path,
) -> None:
    with started(used) as server:
        assert not server.revive()
        await ask(server.dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        killed = postmaster(used)
        os.kill(killed, signal.SIGKILL)
        while Postmaster(used / "postgres" / "data").is_(killed):
            os.sched_yield()
        assert server.revive()
        assert postmaster(used) != killed
        assert await ask(server.dsn, "SELECT n FROM kept") == 7
        assert not server.revive()


def test_whoever_has_left_revives_nothing(used: Path) -> None:
    with started(used) as server:
        server.stop()
        assert not server.revive()
        assert Postmaster(used / "postgres" / "data").pid() is None


@contextmanager
def answering(folder: Path) -> Iterator[Postmaster]:
    """A socket that answers as the server of a folder whose process is not on this system."""
    data = folder / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "postmaster.pid").write_text(f"{2**31 - 1}\n{data}\n1\n5432\n{folder}\n\n0 0\nready\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/.s.PGSQL.5432")
        listener.listen(1000)
        yield Postmaster(data)


def test_a_server_that_answers_from_another_system_is_a_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_postmaster, "ORPHANS_SECONDS", 0.1)
    with answering(folder) as server, pytest.raises(embedded.EmbeddedPostgresError, match="another container"):
        server.pid()


def test_a_dead_servers_children_may_answer_for_a_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(folder) as server:

        def they_go(_seconds: float) -> None:
            Path(folder / ".s.PGSQL.5432").unlink()

        monkeypatch.setattr("sql.embedded_postmaster.time.sleep", they_go)
        assert server.pid() is None


async def test_a_stranger_with_the_dead_servers_number_is_not_taken_for_it(used: Path) -> None:
    lock = used / "postgres" / "data" / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{lock.parent}\n1\n5432\n\n\n0 0\nready\n")
    shutil.chown(lock, lock.parent.stat().st_uid, lock.parent.stat().st_gid)
    with started(used) as server:
        assert postmaster(used) != os.getpid()
        assert await ask(server.dsn, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["a folder, with: odd 'names' ü", "x" * 120])
async def test_a_path_that_a_socket_cannot_have_gets_a_short_one(initialised: Path, folder: Path, name: str) -> None:
    with started(copy(initialised, folder / name)) as server:
        assert await ask(server.dsn, "SELECT current_database()") == "messenger_mirror"


def test_no_path_short_enough_for_a_socket_is_a_clear_error(
    initialised: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = folder / ("t" * 100)
    long.mkdir(mode=0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(embedded.EmbeddedPostgresError, match=r"too long for a socket.*choose a shorter DATA_DIR"):
        embedded.start(copy(initialised, folder / ("x" * 120)))


def test_data_of_another_major_version_is_refused_by_name(used: Path) -> None:
    version = used / "postgres" / "data" / "PG_VERSION"
    found = int(version.read_text())
    version.write_text(f"{found - 1}\n")
    with pytest.raises(embedded.EmbeddedPostgresError, match=rf"of Postgres {found - 1}, .* is {found}: install"):
        embedded.start(used)


def test_a_folder_that_its_account_cannot_enter_is_a_clear_error(folder: Path) -> None:
    """For root the account is another one; for others it is themselves, who made the folder so."""
    private = folder / "private"
    private.mkdir(mode=0o700 if AS_ROOT else 0o500)
    with pytest.raises(embedded.EmbeddedPostgresError, match="DATA_DIR"):
        embedded.start(private / "data")
    private.chmod(0o700)


def without_name(_uid: int) -> None:
    raise KeyError


def test_an_account_that_is_only_a_number_is_told_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", without_name)
    with pytest.raises(embedded.EmbeddedPostgresError, match=r"no line in /etc/passwd.*useradd --uid.*DATABASE_URL"):
        embedded.start(folder)


async def test_an_account_that_is_only_a_number_runs_what_one_with_a_name_has_made(used: Path) -> None:
    for path in [used / "postgres", *(used / "postgres").rglob("*")] if AS_ROOT else ():
        os.chown(path, 54321, 54321)
    with started(used) as server:
        assert await ask(server.dsn, "SELECT 1") == 1
        assert (used / "postgres" / "data").stat().st_uid == (54321 if AS_ROOT else os.geteuid())


def test_a_folder_of_another_account_is_a_clear_error(used: Path) -> None:
    """Tried as an ordinary user with a folder that root's server made; without root, with one that is root's."""
    if AS_ROOT:
        with started(used), said(used, "daemon") as (_, line):
            assert line.startswith("refused The database in DATA_DIR")
            assert "run as that account or as root" in line
    else:
        with pytest.raises(embedded.EmbeddedPostgresError, match="DATA_DIR"):
            embedded.start(Path("/proc/1"))


def test_a_file_in_place_of_the_folder_is_a_clear_error(folder: Path) -> None:
    (folder / "data").write_text("no folder")
    with pytest.raises(embedded.EmbeddedPostgresError, match=r"cannot be used in DATA_DIR .*Choose another DATA_DIR"):
        embedded.start(folder / "data")


def test_an_initialisation_that_was_killed_is_begun_anew(folder: Path) -> None:
    half = folder / "postgres" / "unfinished-1"
    half.mkdir(parents=True, mode=0o700)
    (half / "PG_VERSION").write_text("18\n")
    with started(folder):
        assert not half.exists()


async def test_what_people_wrote_is_not_in_the_log(used: Path) -> None:
    with started(used) as server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("CREATE TABLE messages (text text UNIQUE)")
        await connection.execute("INSERT INTO messages VALUES ('a secret')")
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO messages VALUES ('a secret')")
        await connection.close()
    log = (used / "postgres" / "server.log").read_text()
    assert "duplicate key" in log
    assert "a secret" not in log
