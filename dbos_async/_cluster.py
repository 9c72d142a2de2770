"""One data folder of Postgres, and the server that runs on it: created, started, found, stopped. Everything here blocks.

Only the programs of the wheel are used. The server listens on nothing but a Unix socket, in a folder that one account can enter:
whoever may connect is its superuser. Postgres does not run as root, so for root it runs as the account of the data.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SOCKET = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH = 100  # bytes; macOS ends at 103, Linux at 107
PLAIN_PATH = re.compile(r"[\w./-]+", re.ASCII)
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Cluster:
    """One data folder and the programs for it. Who calls sees to it that nobody else does at the same time."""

    data: Path
    programs: Path
    account: str
    """Who runs the server of data that root creates; made when it is missing."""

    def ensure_running(self) -> Path:
        """Create what is missing and start what does not run. The answer is the folder of the socket.

        Raises `OSError` or `subprocess.CalledProcessError`.
        """
        if not self.data.exists():
            self._create()
        # After a crash the last processes of the old server take a moment to go, and the new one refuses until then.
        until = time.monotonic() + PATIENCE_SECONDS
        while (folder := self._find_socket()) is None:
            try:
                self._launch()
            except subprocess.CalledProcessError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        return folder

    def stop(self) -> None:
        """Stop the server if it runs."""
        pid, folder, _ = self._read_pid_file()
        if _listens(folder) and self._is_ours(pid):
            with suppress(
                subprocess.CalledProcessError
            ):  # It ended by itself just now, or it needs longer and ends later.
                self._run("pg_ctl", "stop", "-w", "-t", "60", "-m", "fast")
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # The first process of a container inherits it, and nobody else buries it.
        self._remove_socket_folder(folder)

    def why(self, error: OSError | subprocess.SubprocessError) -> str:
        """What Postgres said last, as far as it said anything."""
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        with suppress(OSError):
            log = (self.data / "log").read_text(errors="replace").splitlines()[-20:]
            fatal = [line.partition("FATAL:")[2].strip() for line in log if "FATAL:" in line]
            said = fatal[-1] if fatal and isinstance(error, subprocess.CalledProcessError) else said
        return " ".join((said or str(error)).split())

    def _create(self) -> None:
        # It has another name until it is whole: a kill in the middle leaves nothing that looks like a database.
        unfinished = self.data.with_name(f"{self.data.name}.new")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(unfinished, *_ids_of(self.account))
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-instructions")
        self._run("initdb", *options, data=unfinished)
        unfinished.rename(self.data)
        # A power cut could take the name back otherwise, though not what was stored under it since.
        parent = os.open(self.data.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)

    def _launch(self) -> None:
        pid, old_folder, _ = self._read_pid_file()
        self._disown(pid)
        if not self._is_ours(pid):
            self._remove_socket_folder(old_folder)
        folder = self._make_socket_folder()
        options = shlex.join(("-p", "5432", "-h", "", "-k", str(folder)))
        try:
            self._run("pg_ctl", "start", "-w", "-t", "600", "-l", "log", "-o", options)
        except BaseException:
            self._remove_socket_folder(folder)
            raise

    def _disown(self, pid: int) -> None:
        # After a power cut postmaster.pid may be empty, or name what is another program by now. Postgres would refuse both.
        # The number of whoever called pg_ctl it takes for its own; then it still looks for other remains of the old server.
        file = self.data / "postmaster.pid"
        with suppress(FileNotFoundError):
            if not pid:
                file.unlink()
            elif not self._is_ours(pid):
                _, _, rest = file.read_text().partition("\n")
                file.write_text(f"{os.getpid()}\n{rest}")

    def _find_socket(self) -> Path | None:
        # The socket tells whether a server runs. One that starts or stops just now, since whoever told it to was killed
        # meanwhile, is waited for.
        while True:
            _, folder, status = self._read_pid_file()
            if not _listens(folder):
                return None
            if status == "ready":
                return folder
            time.sleep(0.02)

    def _read_pid_file(self) -> tuple[int, Path | None, str]:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            pid = abs(int(lines[0]))
        except (FileNotFoundError, IndexError, ValueError):
            return 0, None, ""
        data, folder, status = (lines[number].strip() if number < len(lines) else "" for number in (1, 4, 7))
        if folder and folder == data:
            return pid, self.data, status  # also if all of it was moved or copied
        return pid, Path(folder) if folder else None, status

    def _is_ours(self, pid: int) -> bool:
        import psutil

        try:
            process = psutil.Process(pid)
            return (
                process.name() == "postgres"
                and process.status() != psutil.STATUS_ZOMBIE
                and process.cwd() == str(self.data)
            )
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True  # It is somebody else's, which Postgres finds out as well.

    def _make_socket_folder(self) -> Path:
        if _fits(self.data):
            return self.data
        # The path is too long for a socket, or has letters to which settings and URLs give a meaning.
        temporary = Path(tempfile.gettempdir())
        place = temporary if _fits(temporary / "dbos-12345678") else Path("/tmp")  # noqa: S108 - the folder in it is ours alone
        folder = Path(tempfile.mkdtemp(prefix="dbos-", dir=place))
        owner = self.data.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        return folder

    def _remove_socket_folder(self, folder: Path | None) -> None:
        if folder is None or folder == self.data or not folder.name.startswith("dbos-"):
            return
        with suppress(OSError):
            for name in (SOCKET, f"{SOCKET}.lock"):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()

    def _run(self, program: str, *arguments: str, data: Path | None = None) -> None:
        data = data or self.data
        as_root = os.geteuid() == 0
        owner = data.stat()
        if as_root:
            _open_the_way(owner.st_uid, data, self.programs)
        # What is said by PG… is meant for other servers, and a locale may not be installed.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        subprocess.run(  # noqa: S603 - the programs of the wheel
            [str(self.programs / program), *arguments],
            check=True,
            cwd=data,
            env=environment | {"PGDATA": str(data), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            user=owner.st_uid if as_root else None,
            group=owner.st_gid if as_root else None,
            extra_groups=[] if as_root else None,
        )


def _fits(folder: Path) -> bool:
    path = str(folder / SOCKET)
    return PLAIN_PATH.fullmatch(path) is not None and len(path) <= LONGEST_SOCKET_PATH


def _listens(folder: Path | None) -> bool:
    if folder is None:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(folder / SOCKET))
        except OSError:
            return False
    return True


def _ids_of(account: str) -> tuple[int, int]:
    import pwd

    try:
        entry = pwd.getpwnam(account)
    except KeyError:
        options = ("--system", "--user-group", "--no-create-home", "--shell", "/bin/false")
        subprocess.run(["useradd", *options, account], capture_output=True, check=False)  # noqa: S603, S607 - its place differs
        try:
            entry = pwd.getpwnam(account)
        except KeyError:
            raise PermissionError(f"root needs an account {account!r} that runs Postgres, and cannot add it") from None
    return entry.pw_uid, entry.pw_gid


def _open_the_way(user: int, *paths: Path) -> None:
    # The account must be able to pass through the folders above, which is not to list or to read what is in them.
    for path in paths:
        for folder in (path, *path.parents):
            known = folder.stat()
            if known.st_uid != user and not known.st_mode & stat.S_IXOTH:
                folder.chmod(stat.S_IMODE(known.st_mode) | stat.S_IXOTH)
