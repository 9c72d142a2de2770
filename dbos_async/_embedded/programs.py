"""The programs of Postgres from the wheel, run as the user of the server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

PROGRAMS: Final = ("postgres", "initdb", "pg_ctl")
SHOWN_LINES: Final = 3
"""How many of its last lines an error quotes from a program, or from the log of the server."""


class NotStartedError(Exception):
    """A program of Postgres failed; its text is the program's."""


class Owner(NamedTuple):
    """As whom the programs run; ``None`` is who runs this process."""

    uid: int | None
    gid: int | None


def run(command: list[str], folder: Path, owner: Owner) -> None:
    """Run a program in a folder. Raises `NotStartedError` with the last of what it wrote."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "TZ", "LD_LIBRARY_PATH")}
    # Into a file: the server inherits its output, and the reader of a pipe would wait for its end.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(  # noqa: S603  # no shell
            command, cwd=folder, env={**kept, "LC_ALL": "C"}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            user=owner.uid, group=owner.gid, extra_groups=None if owner.uid is None else [], check=False,
            start_new_session=True, umask=0o077,
        )  # fmt: skip
        if done.returncode:
            output.seek(0)
            raise NotStartedError(quoted(output.read()) or f"{Path(command[0]).name} failed with {done.returncode}")


def usable_programs(installed: Path, owner: Owner) -> Path:
    """Return where the programs of Postgres are: as installed, or a copy if they are of no use to their user there.

    That is so in a folder that only root may enter, and in one whose name means something to the shell that they use.
    """
    if not (installed / "bin" / "postgres").exists():
        raise NotStartedError(f"the installed extra has no {installed.name}")
    if _can_run(installed, owner):
        return installed
    changed = (installed / "bin" / "postgres").stat()
    made_from = hashlib.sha256(f"{installed} {changed.st_mtime_ns} {changed.st_size}".encode(errors="replace"))
    uid = os.geteuid()
    caches = ["/var/cache"] if uid == 0 else [os.path.expanduser("~/.cache")]
    if "XDG_CACHE_HOME" in os.environ:
        caches.insert(0, os.environ["XDG_CACHE_HOME"])
    places = [*(Path(cache, "dbos_async") for cache in caches), Path(tempfile.gettempdir(), f"dbos_async-{uid}")]
    for place in places:
        whole = place / made_from.hexdigest()[:16]
        copy = whole / installed.parent.name / installed.name
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            own = place.lstat()
            if not stat.S_ISDIR(own.st_mode) or own.st_uid != uid:
                continue  # of somebody else, who may have put something else there
            place.chmod(0o755)
            if not whole.exists():
                _copy_programs(installed, whole)
            if _can_run(copy, owner):
                return copy
    raise NotStartedError(f"the user of the server may not enter {installed}")


def _copy_programs(installed: Path, whole: Path) -> None:
    half_made = Path(tempfile.mkdtemp(dir=whole.parent))
    wheel = installed.parent
    libraries = [
        wheel.with_name(f"{wheel.name}.libs"),
        wheel / ".dylibs",
    ]  # where a wheel has them on Linux and on macOS
    programs = [installed / "bin" / name for name in PROGRAMS]
    for source in (installed / "lib", installed / "share", *programs, *filter(Path.exists, libraries)):
        target = half_made / source.relative_to(wheel.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy2(source, target)
    for place, _, files in os.walk(half_made):
        os.chmod(place, 0o755)  # noqa: S103  # programs, no data
        for file in files:
            if not os.path.islink(name := os.path.join(place, file)):
                os.chmod(name, 0o755)  # noqa: S103
    try:
        half_made.rename(whole)
    except OSError:
        shutil.rmtree(half_made)  # another process was faster
        if not whole.exists():
            raise


def _can_run(programs: Path, owner: Owner) -> bool:
    if re.search(r'[$`"\\\n]', str(programs)):
        return False
    try:
        for name in PROGRAMS:
            run([str(programs / "bin" / name), "--version"], Path("/"), owner)
    except (PermissionError, NotStartedError):
        return False
    return True


def last_lines(log: Path, begin: int) -> str:
    """Return the end of what the server has written into its log since then."""
    try:
        return quoted(log.read_bytes()[begin:])
    except OSError:
        return ""


def quoted(output: bytes) -> str:
    """Return the last lines of what a program has written, as a part of one sentence."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return " / ".join(line.removesuffix(".") for line in lines[-SHOWN_LINES:])
