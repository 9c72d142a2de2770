"""Telemetry is on if the program has set a provider before the launch, and costs nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from dbos_async import DBOS, DBOSClient, InvalidArgumentError
from dbos_async._telemetry.choosing import find_telemetry
from tests.support.telemetry import Exported, exporting

pytestmark = pytest.mark.newest_only  # telemetry does not depend on the version of Postgres

PROGRAM = """
import asyncio, sys
from dbos_async import DBOS, DBOSClient

@DBOS.workflow()
async def takes():
    return await DBOS.recv("paid")

async def main():
    async with DBOS(sys.argv[1]):
        handle = await DBOS.start_workflow(takes)
        async with DBOSClient(sys.argv[1]) as client:
            await client.send(handle.workflow_id, 1, "paid")
        await handle.get_result()
    print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))

asyncio.run(main())
"""


def test_off_means_nothing_imported(database_url: str) -> None:
    program = [sys.executable, "-W", "error", "-c", PROGRAM, database_url]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_wanted_without_the_extra_it_says_what_to_install(database_url: str) -> None:
    wanted = PROGRAM.replace("DBOS(sys.argv[1])", "DBOS(sys.argv[1], telemetry=True)")
    program = [sys.executable, "-c", f"import sys; sys.modules['opentelemetry'] = None\n{wanted}", database_url]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert "ConfigurationError: telemetry=True needs OpenTelemetry" in done.stderr
    assert "pip install 'dbos_async[otel]'" in done.stderr


def test_it_is_on_with_a_provider_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_telemetry(None) is None
    with exporting(monkeypatch):
        found = find_telemetry(None)
        assert found is not None
        assert found.tracer is not None
        assert found.instruments is not None
        assert find_telemetry(False) is None
        from opentelemetry import metrics, trace

        monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", NoOpMeterProvider())
        found = find_telemetry(None)
        assert found is not None
        assert found.instruments is None
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", NoOpTracerProvider())
        assert find_telemetry(None) is None


async def test_switched_off_it_tells_nothing(exported: Exported, database_url: str) -> None:
    @DBOS.workflow()
    async def ends() -> None: ...

    async with DBOS(database_url, telemetry=False):
        await ends()
        assert exported.points("dbos_async.runs") == []
    assert exported.spans() == []


def test_the_option_is_a_bool(database_url: str) -> None:
    for make in (DBOS, DBOSClient):
        with pytest.raises(InvalidArgumentError, match="telemetry"):
            make(database_url, telemetry="yes")  # type: ignore[call-arg, arg-type, unused-ignore]  # a mistake
