"""What is known of the server process of a data folder, from its postmaster.pid and the kernel."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from sql.embedded_binaries import Account, EmbeddedPostgresError

NEVER_A_PID = str(2**31 - 1)  # above every kernel's highest pid, yet a number to Postgres
FAST_SHUTDOWN_SECONDS = 60.0
ORPHANS_SECONDS = 5.0  # how long a dead server's children may keep its socket open
POLL = 0.02


@dataclass(frozen=True)
class Noted:
    """The lines of postmaster.pid that matter."""

    pid: int
    port: str
    run: str
    state: str


@dataclass(frozen=True)
class Postmaster:
    """The server process of one data folder, if there is one."""

    data: Path

    def noted(self) -> Noted:
        """Read what the server writes about itself, all empty when there is nothing."""
        try:
            text = os.fsdecode((self.data / "postmaster.pid").read_bytes())
        except FileNotFoundError:
            text = ""
        # pid, data folder, start time, port, socket folder, host, shared memory, state: filled in one by one
        lines = [*(line.strip() for line in text.splitlines()), *([""] * 8)]
        return Noted(int(lines[0]) if lines[0].isdecimal() else 0, lines[3], lines[4], lines[7])

    def pid(self) -> int | None:
        """Return the pid of the running server.

        Raises `EmbeddedPostgresError` for a server that answers but is not on this system. What outlives a killed
        server for a moment keeps its socket open, so that an answer alone proves none.
        """
        patience = time.monotonic() + ORPHANS_SECONDS
        while True:
            noted = self.noted()
            if noted.pid and self.is_(noted.pid):
                return noted.pid
            if not _answers(noted):
                return None
            if time.monotonic() >= patience:
                raise EmbeddedPostgresError(
                    f"A server answers in DATA_DIR ({self.data}), but its process {noted.pid} is not on this system: "
                    "it probably runs in another container. Give each container its own DATA_DIR, or share a Postgres "
                    "by DATABASE_URL."
                )
            time.sleep(POLL)

    def is_(self, pid: int) -> bool:
        """Tell whether a pid is this server, and neither a zombie nor a stranger who got its number."""
        if not Path("/proc/self/cmdline").exists():  # macOS
            words = _command_line(pid).split(" -D ")
            return words[0].endswith("postgres") and len(words) > 1 and words[1].startswith(str(self.data))
        try:
            # Readable for all, unlike cwd and exe; empty for a zombie; "postgres: ..." for the server's children.
            words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        if Path(words[0]).name != "postgres":
            return False
        try:
            return Path(words[words.index("-D") + 1]).samefile(self.data)
        except (ValueError, OSError):
            return True  # of unclear folder, started by hand: better to take it for ours than to start over it

    def is_ready(self, pid: int) -> bool:
        """Tell whether this server accepts clients."""
        noted = self.noted()
        return noted.pid == pid and noted.state == "ready" and _answers(noted)

    def wait_for_exec(self, pid: int) -> None:
        """Wait until a shell's fresh child has become this server: before, it looks like one that died."""
        patience = time.monotonic() + 5
        while _exists(pid) and not self.is_(pid) and time.monotonic() < patience:
            time.sleep(POLL)

    def stop(self) -> None:
        """Stop the server if it runs, and return when it is gone."""
        pid = self.pid()
        if pid is None:
            return
        # Fast: clients are cut off, everything is written. Immediate is as a crash: the next start recovers.
        for number, seconds in ((signal.SIGINT, FAST_SHUTDOWN_SECONDS), (signal.SIGQUIT, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + seconds
            while self.is_(pid) and time.monotonic() < deadline:
                time.sleep(POLL)
            if not self.is_(pid):
                return
        raise EmbeddedPostgresError(f"The server in DATA_DIR ({self.data}), process {pid}, does not stop.")


def forget_dead(path: Path, account: Account) -> None:
    """Swap the pid in a lock file of a server that is gone.

    Postgres refuses to start over a pid that exists, be it a zombie's or a stranger's with the same number. The file
    itself must stay: its shared-memory line is how Postgres notices children that outlive the dead server.
    """
    try:
        _, _, rest = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return
    swapped = path.with_name("swapped.pid")
    swapped.unlink(missing_ok=True)
    with os.fdopen(os.open(swapped, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(NEVER_A_PID.encode() + b"\n" + rest)
    account.own(swapped)
    swapped.replace(path)


def _answers(noted: Noted) -> bool:
    if not noted.run:
        return False
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(f"{noted.run}/.s.PGSQL.{noted.port}")
        except OSError:
            return False
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _command_line(pid: int) -> str:
    return subprocess.run(  # noqa: S603 - no words from outside
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
