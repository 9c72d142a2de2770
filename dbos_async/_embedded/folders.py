"""The folders of the embedded Postgres: whose they are, who may enter them, and how a URL names one."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final, Self

from dbos_async._embedded.programs import NotStartedError, Owner, run

ACCOUNT: Final = "pgserver"
"""As whom the server runs when root starts it."""
MAX_SOCKET_PATH: Final = 107 if sys.platform == "linux" else 103
HERE: Final = "/proc/self/cwd"
"""How a program names its working directory without a right to enter the folders above it. Only Linux has it."""


class Alias:
    """A name of a folder that fits into a URL and into the address of a socket; it holds while this process has it."""

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        self._link: Path | None = None
        self.name: str = str(folder)
        # A comma separates hosts in a URL, and asyncpg takes a name with .s.PGSQL. for that of a socket.
        is_plain = re.fullmatch(r"(?:(?!\.s\.PGSQL\.)[^,\ud800-\udfff])*", self.name, re.DOTALL)
        if is_plain and len(os.fsencode(folder / ".s.PGSQL.5432")) <= MAX_SOCKET_PATH:
            return
        if Path(HERE).exists():
            self._descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.name = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        else:
            self._link = Path(tempfile.mkdtemp(prefix="dbos-"), "pg")
            self._link.symlink_to(folder)
            self.name = str(self._link)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the name up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        if self._link is not None:
            shutil.rmtree(self._link.parent, ignore_errors=True)


def make_private(directory: Path) -> None:
    """Make the folder with its lock files, whatever the umask, such that nobody else can put anything there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    made, above, uid = directory.stat(), directory.parent.stat(), os.geteuid()
    if made.st_uid not in (0, uid) and (
        uid != 0 or (made.st_uid != above.st_uid and above.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    ):
        raise NotStartedError(f"the folder belongs to the user id {made.st_uid}, and this is {uid}")
    if made.st_uid == uid:
        # Where a program cannot call its folder /proc/self/cwd, the account of root's server must pass through this one.
        directory.chmod(0o700 if uid != 0 or Path(HERE).exists() else 0o711)
    for name, text in ((".gitignore", "*\n"), ("in-use.lock", ""), ("starting.lock", "")):
        file = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(file, "r+") as opened:
            if os.fstat(file).st_uid == uid:
                os.fchmod(file, 0o600)
                if uid == 0 and made.st_uid != 0:
                    os.fchown(file, made.st_uid, made.st_gid)
            if text and opened.read() != text:
                opened.seek(0)
                opened.write(text)
                opened.truncate()


def give_away(folder: Path, owner: Owner) -> None:
    """Make a folder, with all that is in it, the owner's."""
    if owner.uid is not None and owner.gid is not None:
        for place, _, files in os.walk(folder):
            for name in (place, *(os.path.join(place, file) for file in files)):
                os.chown(name, owner.uid, owner.gid, follow_symlinks=False)


def owner_of(data: Path) -> Owner:
    """As whom the server of this data runs: as its owner. New data belongs to this user or, if that is root, to `ACCOUNT`."""
    import pwd

    found, uid = (data if data.exists() else data.parent).stat(), os.geteuid()
    if uid != 0:
        if data.exists() and found.st_uid != uid:
            raise NotStartedError(f"{data.name} belongs to the user id {found.st_uid}, and this is {uid}")
        return Owner(None, None)
    if found.st_uid != 0:
        return Owner(found.st_uid, found.st_gid or found.st_uid)
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        run(["useradd", "--system", "--shell", "/bin/false", ACCOUNT], Path("/"), Owner(None, None))
        entry = pwd.getpwnam(ACCOUNT)
    return Owner(entry.pw_uid, entry.pw_gid)


def has_name(owner: Owner) -> bool:
    """Return whether the users' database knows a name of this user."""
    import pwd

    try:
        return bool(pwd.getpwuid(os.geteuid() if owner.uid is None else owner.uid))
    except KeyError:
        return False
