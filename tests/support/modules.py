"""Modules that tests make from text."""

from __future__ import annotations

import types
from pathlib import Path


def made_by(source: str, name: str, path: Path) -> types.ModuleType:
    """A module of this source, as if a file had been imported under this name."""
    module = types.ModuleType(name)
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module
