"""A real Postgres in the data folder, shared by all our processes on that folder; the last one out stops it.

Nothing here may rely on a clean end: any process can be killed at any line. So a user is a shared lock that the kernel
drops, starting and stopping happen under an exclusive one, and what a dead starter left behind is never trusted.
"""

import os
import subprocess
import time
from pathlib import Path

from sql.embedded_binaries import USE_YOUR_OWN, EmbeddedPostgresError, binaries
from sql.embedded_postmaster import FAST_SHUTDOWN_SECONDS
from sql.embedded_server import BusyError, Server, StillStartingError

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "binaries", "start"]


class EmbeddedPostgres:
    """One user's hold on the server of a data folder."""

    def __init__(self, server: Server, users: int, dsn: str, database: str) -> None:
        self.dsn, self._database = dsn, database
        self._server = server
        self._users: int | None = users

    def revive(self, *, timeout: float = 120.0) -> bool:
        """Start the server again if it has died; returns whether it had. Blocks while it starts and recovers.

        Raises:
            EmbeddedPostgresError: it can't be started now.

        """
        if self._users is None or self._server.postmaster.pid() is not None:
            return False
        deadline = time.monotonic() + timeout
        try:
            with self._server.alone(deadline):
                if self._users is None or self._server.postmaster.pid() is not None:  # another user was faster
                    return False
                self._server.bring_up(self._database, deadline)
        except (OSError, subprocess.SubprocessError) as exc:
            raise EmbeddedPostgresError(
                f"The server in DATA_DIR ({self._server.home}) can't be started: {exc}"
            ) from exc
        return True

    def stop(self) -> None:
        """Give up the hold; the last one out stops the server. Calling it again does nothing."""
        users, self._users = self._users, None
        if users is None:
            return
        try:
            with self._server.alone(time.monotonic() + FAST_SHUTDOWN_SECONDS):
                self._server.leave(users)
        except BusyError:
            pass  # a starter holds the server itself, and stops it if it fails
        except OSError as exc:
            raise EmbeddedPostgresError(f"The server in DATA_DIR ({self._server.home}) may still run: {exc}") from exc
        finally:
            os.close(users)


def start(data_dir: Path, *, database: str = "messenger_mirror", timeout: float = 120.0) -> EmbeddedPostgres:
    """Start the server of the data folder, or join it when it runs, and make the database if it is missing.

    Blocks, at most about `timeout` seconds. A server that is still recovering by then is left to it: the next start
    joins it, where stopping it would make recovery begin anew.
    """
    binaries()
    deadline = time.monotonic() + timeout
    try:
        server = Server(data_dir)
        with server.alone(deadline):
            users = server.join()
            try:
                return EmbeddedPostgres(server, users, server.bring_up(database, deadline), database)
            except BaseException as exc:
                try:
                    if not isinstance(exc, StillStartingError):
                        server.leave(users)
                finally:
                    os.close(users)
                raise
    except (OSError, subprocess.SubprocessError) as exc:
        raise EmbeddedPostgresError(
            f"The embedded Postgres cannot be used in DATA_DIR ({data_dir}): {exc}. "
            f"Choose another DATA_DIR, {USE_YOUR_OWN}."
        ) from exc
