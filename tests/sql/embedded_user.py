"""A process that uses the embedded server of a folder: `python -m tests.sql.embedded_user FOLDER [ACCOUNT]`.

It says `ready DSN`, or `refused TEXT`, and stops when its standard input ends. With an account's name it becomes that
account first, once all it needs is imported: the account may not be able to read this interpreter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sql import embedded

if sys.platform != "win32":
    import pwd


def become(name: str) -> None:
    entry = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def say(word: str, text: str) -> None:
    sys.stdout.write(f"{word} {text}\n")
    sys.stdout.flush()


def main(folder: str, account: str | None = None) -> None:
    if account is not None:
        become(account)
    try:
        server = embedded.start(Path(folder))
    except embedded.EmbeddedPostgresError as error:
        say("refused", " ".join(str(error).split()))
        return
    say("ready", server.dsn)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
