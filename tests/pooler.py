"""A real PgBouncer in transaction mode, where one is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Debian puts it where an ordinary user's PATH does not lead
FOUND = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
PORT = 6432
NOBODY = 65534
SESSIONS = 3  # fewer than there are clients: they have to share them
START_WITHIN_SECONDS = 60.0


@contextmanager
def pooler(program: str, dsn: str) -> Iterator[str]:
    """Run PgBouncer before the server of an address; gives the same database's address through it."""
    parts, query = urlsplit(dsn), {name: values[0] for name, values in parse_qs(urlsplit(dsn).query).items()}
    host, port = query.get("host", parts.hostname or "127.0.0.1"), query.get("port", parts.port or 5432)
    user, password = unquote(parts.username or "postgres"), unquote(parts.password or "")
    folder = Path(tempfile.mkdtemp(prefix="bouncer-"))
    try:
        (folder / "pgbouncer.ini").write_text(
            f"""
            [databases]
            * = host={host} port={port} user={user} {f"password={password}" if password else ""}
            [pgbouncer]
            listen_port = {PORT}
            unix_socket_dir = {folder}
            auth_type = any
            pool_mode = transaction
            default_pool_size = {SESSIONS}
            max_client_conn = 200
            ignore_startup_parameters = extra_float_digits
            """.replace("            ", "")
        )
        account = _account(Path(host) if host.startswith("/") else None)
        if account is not None:
            os.chown(folder, account, -1)
        process = subprocess.Popen(
            [program, str(folder / "pgbouncer.ini")], stderr=subprocess.PIPE, text=True, user=account
        )
        assert process.stderr is not None
        said: SimpleQueue[str] = SimpleQueue()
        # to the end: one that nobody listens to would stand still
        listener = Thread(target=_listen, args=(process.stderr, said))
        listener.start()
        try:
            if not said.get(timeout=START_WITHIN_SECONDS):
                raise RuntimeError("PgBouncer ended")
            yield f"postgresql://{quote(user)}@{parts.path}?host={folder}&port={PORT}"
        finally:
            process.kill()
            process.wait()
            listener.join()
            process.stderr.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account(socket_folder: Path | None) -> int | None:
    """Whose account to use: it refuses to run as root, and an embedded server's socket lets in its own account only."""
    if os.geteuid() != 0:
        return None
    if socket_folder is not None and socket_folder.stat().st_uid != 0:
        return socket_folder.stat().st_uid
    return NOBODY


def _listen(lines: Iterable[str], said: SimpleQueue[str]) -> None:
    for line in lines:
        if "process up" in line:
            said.put(line)
    said.put("")
