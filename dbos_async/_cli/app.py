"""The group of all commands: its wrong usages are one sentence, too."""

from __future__ import annotations

import sys
from typing import Any, Final, cast

import typer
from typer.core import TyperGroup

from dbos_async._cli.exits import ExitCode
from dbos_async._cli.output import note
from dbos_async._logs import shown

REFUSALS: Final = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""What click raises when it cannot use a command line, wherever this release of typer keeps that class."""


class Commands(TyperGroup):
    """The outermost group."""

    def main(
        self,
        args: Any = None,
        prog_name: Any = None,
        complete_var: Any = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run one command, and end the process with its exit code."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except REFUSALS as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                cast("Any", error).show()
            else:
                note(_sentence(error), "red")
            sys.exit(ExitCode.USAGE)
        except typer.Abort:
            sys.exit(ExitCode.INTERRUPTED)
        sys.exit(code if isinstance(code, int) else ExitCode.DONE)


def _sentence(error: Any) -> str:
    text = shown(" ".join(str(error.format_message()).split())).removesuffix(".")
    path = getattr(getattr(error, "ctx", None), "command_path", "dbos-async")
    return f"{text} See '{path} --help'." if text.endswith("?") else f"{text}: see '{path} --help'."
