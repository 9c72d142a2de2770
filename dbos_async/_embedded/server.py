"""The server of one folder of data: made, started, found running, and stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from dbos_async._embedded.folders import HERE, Alias, give_away, has_name, owner_of
from dbos_async._embedded.programs import NotStartedError, Owner, last_lines, run, usable_programs

_log = logging.getLogger("dbos_async")

START_SECONDS: Final = 300
"""So long a server may take to start: after a crash it first replays its log."""
GONE_SECONDS: Final = 10
"""So long a server that was killed may take to be gone."""

# The command line counts more than postgresql.conf. The socket is in the working directory of the server, which is its data.
SETTINGS: Final = (
    "-c listen_addresses= -c port=5432"
    " -c unix_socket_directories=. -c unix_socket_permissions=0700 -c unix_socket_group="
)

# initdb wants a name of the user who runs it. A user who has none is, for initdb alone, called like somebody who has one: in a
# user namespace, which changes nothing else. The files stay the user's own.
WITH_A_NAME: Final = """
import ctypes, os, pwd, sys
uid = os.geteuid()
named = next(entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0)
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
    sys.exit(f"the user id {uid} has no entry in /etc/passwd, and a user namespace was refused: {os.strerror(ctypes.get_errno())}")
with open("/proc/self/uid_map", "w") as map:
    map.write(f"{named} {uid} 1")
os.execv(sys.argv[1], sys.argv[1:])
"""


class _Postmaster(NamedTuple):
    """What a server says about itself in its folder."""

    pid: int
    socket_folder: Path
    port: str
    is_ready: bool


class Server:
    """The server of one folder of data."""

    def __init__(self, data: Path, installed: Path) -> None:
        self._data = data
        self._installed = installed
        self._owner = Owner(None, None)
        self._programs = installed

    def start(self) -> None:
        """Start it unless it runs, and make its data if there is none. Raises `NotStartedError`."""
        self._owner = owner_of(self._data)
        if not self._is_running():
            self._programs = usable_programs(self._installed, self._owner)
            if not (self._data / "PG_VERSION").exists():
                self._create()
            elif self._data.stat().st_uid == 0:
                give_away(self._data, self._owner)  # as a copy made by root is
            self._launch()
        end = time.monotonic() + START_SECONDS
        while (postmaster := self._postmaster()) is None or not postmaster.is_ready:
            if time.monotonic() > end or not self._is_running():
                raise NotStartedError(last_lines(self._data / "log", 0) or "it is not ready")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it, unless something else has."""
        try:
            if self._is_running():
                self._programs = usable_programs(self._installed, self._owner)
                self._run(self._data, "pg_ctl", "-D", self._here(self._data), "-w", "-m", "fast", "stop")
        except (OSError, NotStartedError) as error:
            if self._data.exists():
                _log.warning("The embedded Postgres did not stop: %s.", error)

    def address(self) -> tuple[Path, str]:
        """Return where its socket is: the folder, and the port that is a part of its name."""
        postmaster = self._postmaster()
        if postmaster is None:
            raise NotStartedError("it has stopped again")
        return postmaster.socket_folder, postmaster.port

    def _launch(self) -> None:
        log = self._data / "log"
        named = f"{SETTINGS} -c {shlex.quote(f'dbos_async.folder={self._data}')}"  # as a list of processes shows it
        start = ("-w", "-t", str(START_SECONDS), "-l", "log", "-o", named, "start")
        end = time.monotonic() + GONE_SECONDS
        while True:
            self._reap()
            begin = log.stat().st_size if log.exists() else 0
            try:
                return self._run(self._data, "pg_ctl", "-D", self._here(self._data), *start)
            except NotStartedError as error:
                words = last_lines(log, begin) or str(error)
                if self._is_running():
                    return None
                # One that was killed is there until its parent has heard of it, and until its last session has ended.
                if time.monotonic() > end or not any(each in words for each in ("lock file", "shared memory block")):
                    raise NotStartedError(words) from None
            time.sleep(0.1)

    def _reap(self) -> None:
        # A server that was killed is this process's to bury when it is the first of its container.
        if (postmaster := self._postmaster()) is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(postmaster.pid, os.WNOHANG)

    def _create(self) -> None:
        # A folder that is made half is never taken for one: it gets its name in the end.
        new = self._data.with_name(f"{self._data.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        new.chmod(0o700)
        give_away(new, self._owner)
        # These are in every Postgres, whatever locales this machine has or loses: text is in the order of its code points.
        locale = ["--no-locale"]
        if self._installed.name == "pginstall18":
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._run(
            new, "initdb", "-D", self._here(new), "-U", "postgres", "--encoding=utf8", *locale,
            "--auth-local=trust", "--auth-host=reject",
        )  # fmt: skip
        with contextlib.suppress(FileNotFoundError):
            self._data.rmdir()
        new.rename(self._data)

    def _is_running(self) -> bool:
        postmaster = self._postmaster()
        if postmaster is None:
            return False
        try:
            with Alias(postmaster.socket_folder) as alias, socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                client.connect(f"{alias.name}/.s.PGSQL.{postmaster.port}")
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except BlockingIOError:
            pass  # many connect at this moment
        return True

    def _postmaster(self) -> _Postmaster | None:
        try:
            lines = os.fsdecode((self._data / "postmaster.pid").read_bytes()).split("\n")
            is_ready = len(lines) > 7 and lines[7].strip() == "ready"
            return _Postmaster(abs(int(lines[0])), self._data / lines[4], lines[3], is_ready)
        except (FileNotFoundError, IndexError, ValueError):
            return None

    def _here(self, folder: Path) -> str:
        return HERE if Path(HERE).exists() else str(folder)

    def _run(self, folder: Path, program: str, *arguments: str) -> None:
        command = [str(self._programs / "bin" / program), *arguments]
        if program == "initdb" and not has_name(self._owner):
            command = [sys.executable, "-I", "-c", WITH_A_NAME, *command]
        run(command, folder, self._owner)
