"""Which version of a program runs a workflow: that of whoever began it, or the one that its start names (W2)."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, DBOSClient, InvalidArgumentError, SetApplicationVersion, SetWorkflowID
from dbos_async._workflows.status import WorkflowStatus
from tests.support import listening
from tests.support.eventually import eventually
from tests.support.processes import running
from tests.support.programs.versioned import TICKS


@DBOS.workflow(name="waits in a version")
async def waits() -> Any:
    return await DBOS.recv("go", None)


@DBOS.workflow(name="starts in a version")
async def starts_elsewhere(version: str) -> str:
    with SetApplicationVersion(version), SetWorkflowID("child"):
        handle = await DBOS.start_workflow(waits)
    return str(await handle.get_result())


async def _status(workflow_id: str) -> WorkflowStatus:
    return await (await DBOS.retrieve_workflow(workflow_id)).get_status()


async def _is_claimed(workflow_id: str) -> bool:
    return (await _status(workflow_id)).attempt > 0


async def _is_there(workflow_id: str) -> bool:
    return bool(await DBOS.list_workflows(workflow_id=workflow_id))


async def _end(workflow_id: str) -> WorkflowStatus:
    await DBOS.send(workflow_id, "ended", "go")
    assert await (await DBOS.retrieve_workflow(workflow_id)).get_result() == "ended"
    return await _status(workflow_id)


async def _unclaimable() -> list[str]:
    return [status.workflow_id for status in await DBOS.list_workflows(unclaimable=True)]


async def test_w2_what_a_client_starts_gets_the_version_of_its_first_executor(database_url: str) -> None:
    async with DBOSClient(database_url, migrate=True) as client:
        with SetWorkflowID("w"):
            handle = await client.start_workflow("waits in a version")
        assert (await handle.get_status()).application_version is None
        async with DBOS(database_url, application_version="1"):
            await eventually(lambda: _is_claimed("w"))
            assert (await _status("w")).application_version == "1"
        async with DBOS(database_url, application_version="2"):
            assert await _unclaimable() == ["w"]
            with SetWorkflowID("of 2"):
                await client.start_workflow("waits in a version")
            assert (await _end("of 2")).application_version == "2"  # claimed long after the other could have been
            assert (await _status("w")).attempt == 1
        async with DBOS(database_url, application_version="1"):
            ended = await _end("w")
            assert (ended.application_version, ended.attempt) == ("1", 2)


async def test_w2_a_client_names_a_version_for_all_starts_or_for_one(database_url: str) -> None:
    async with DBOS(database_url, application_version="1"), DBOSClient(database_url, application_version="2") as client:
        for name, version in (("2", None), ("3", "3"), ("1", "1")):
            with SetWorkflowID(name):
                if version is None:
                    await client.start_workflow(waits)
                else:
                    with SetApplicationVersion("another"), SetApplicationVersion(version):
                        await client.start_workflow(waits)
        assert (await _end("1")).application_version == "1"
        assert await _unclaimable() == ["2", "3"]
    for version in ("3", "2"):
        async with DBOS(database_url, application_version=version):
            assert (await _end(version)).application_version == version


async def test_w2_an_executor_without_a_version_runs_all_and_names_none(database_url: str) -> None:
    async with DBOSClient(database_url, migrate=True) as client:
        for name in ("w", "of 1"):
            with SetWorkflowID(name):
                if name == "w":
                    await client.start_workflow(waits)
                else:
                    with SetApplicationVersion("1"):
                        await client.start_workflow(waits)
        async with DBOS(database_url):
            await eventually(lambda: _is_claimed("w"))
            assert (await _status("w")).application_version is None
            with SetWorkflowID("own"), SetApplicationVersion("9"):
                await DBOS.start_workflow(waits)
            assert (await _status("own")).attempt == 1  # it began here
            assert [(await _end(name)).application_version for name in ("of 1", "own")] == ["1", "9"]
        async with DBOS(database_url, application_version="2"):
            assert (await _end("w")).application_version == "2"


async def test_w2_a_start_of_another_version_leaves_the_workflow_to_that(database_url: str) -> None:
    async with DBOS(database_url, application_version="1"):
        with SetWorkflowID("parent"):
            await DBOS.start_workflow(starts_elsewhere, "2")
        await eventually(lambda: _is_there("child"))
        with SetWorkflowID("sibling"), SetApplicationVersion("2"):
            await DBOS.start_workflow(waits)
        with SetWorkflowID("own"), SetApplicationVersion("1"):
            await DBOS.start_workflow(waits)
        assert (await _status("own")).attempt == 1  # it began here
        await _end("own")
        assert sorted(await _unclaimable()) == ["child", "sibling"]
    async with DBOS(database_url, application_version="2"):
        for name in ("child", "sibling"):
            assert (await _end(name)).application_version == "2"
    async with DBOS(database_url, application_version="1"):
        assert await (await DBOS.retrieve_workflow("parent")).get_result() == "ended"


async def test_w2_starts_in_a_transaction_forks_and_resumed_workflows_keep_their_version(
    database_url: str, connection: asyncpg.Connection[Any]
) -> None:
    async with DBOS(database_url, application_version="1"), DBOSClient(database_url) as client:
        for name, side in (("mine", DBOS), ("client's", client)):
            async with connection.transaction():
                with SetWorkflowID(name):
                    await side.start_workflow(waits, connection=connection)
        for name in ("mine", "client's"):
            await eventually(lambda name=name: _is_claimed(name))  # type: ignore[misc]  # binds the variable of the loop
            assert (await _status(name)).application_version == "1"
            await DBOS.cancel_workflow(name)
        with SetWorkflowID("fork"):
            await client.fork_workflow("client's", 1)
        with SetWorkflowID("fork for 2"):
            await client.fork_workflow("client's", 1, application_version="2")
        assert (await _end("fork")).application_version == "1"
        await DBOS.resume_workflow("mine")
        assert (await _end("mine")).application_version == "1"
        await DBOS.resume_workflow("client's", application_version="2")
        assert sorted(await _unclaimable()) == ["client's", "fork for 2"]
    async with DBOS(database_url, application_version="2"):
        for name in ("client's", "fork for 2"):
            assert (await _end(name)).application_version == "2"


@pytest.mark.parametrize("version", ["", "a\0b", "x" * 513, "\ud800", 2, b"2"])
async def test_d5_a_version_that_cannot_be_one_is_refused_where_it_is_given(version: Any, database_url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="SetApplicationVersion"):
        SetApplicationVersion(version)
    with pytest.raises(InvalidArgumentError, match="application_version"):
        DBOSClient(database_url, application_version=version)
    with pytest.raises(InvalidArgumentError, match="application_version"):
        async with DBOS(database_url, application_version=version):
            pass
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(waits)
        with pytest.raises(InvalidArgumentError, match="application_version"):
            await DBOS.resume_workflow("w", application_version=version)
        with pytest.raises(InvalidArgumentError, match="application_version"):
            await DBOS.fork_workflow("w", 1, application_version=version)
    with pytest.raises(InvalidArgumentError, match="SetApplicationVersion"):
        SetApplicationVersion(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # what is tested


async def test_w2_a_rolling_deploy_of_two_versions_parks_nothing(database_url: str) -> None:
    """The old executors get SIGTERM one by one while clients go on starting workflows."""
    started: list[str] = []

    async def start(client: DBOSClient, count: int) -> None:
        for _ in range(count):
            started.append((await client.start_workflow("versioned")).workflow_id)
            await asyncio.sleep(0.01)

    async def statuses() -> list[WorkflowStatus]:
        return await client.list_workflows(limit=1000)

    async def old_ones_have_ended() -> bool:
        return all(s.status != "PENDING" or s.application_version == "2" for s in await statuses())

    async with (
        DBOSClient(database_url, migrate=True) as client,
        DBOSClient(database_url, application_version="2") as new_client,
        running("versioned", database_url, "old a", "1") as old_a,
        running("versioned", database_url, "old b", "1") as old_b,
    ):
        await asyncio.gather(old_a.says("ready"), old_b.says("ready"))
        await start(client, 15)
        async with (
            running("versioned", database_url, "new a", "2") as new_a,
            running("versioned", database_url, "new b", "2") as new_b,
        ):
            await asyncio.gather(new_a.says("ready"), new_b.says("ready"))
            await start(client, 15)  # any executor begins them
            end_of_a = asyncio.create_task(old_a.end())
            await start(client, 15)
            assert await end_of_a == 128 + signal.SIGTERM
            await start(new_client, 15)
            await eventually(old_ones_have_ended, give_up_after_seconds=60)
            end_of_b = asyncio.create_task(old_b.end())
            await start(new_client, 15)
            assert await end_of_b == 128 + signal.SIGTERM
            await start(client, 15)
            results = {}
            for workflow_id in started:
                results[workflow_id] = await (await client.retrieve_workflow(workflow_id)).get_result()
            found = await statuses()
            errors = "".join(program.errors for program in (old_a, old_b, new_a, new_b))
    assert len(found) == len(started) == 90
    assert {status.status for status in found} == {"SUCCESS"}, errors
    for status in found:
        assert results[status.workflow_id] == [status.application_version] * (TICKS + 1)
    versions = [result[0] for result in results.values()]
    assert {"1", "2"} == set(versions)
    assert versions[-45:] == ["2"] * 45
    assert listening.is_off() or any(status.attempt > 1 for status in found)  # an old executor had to hand some over
    assert "REPLAY_MISMATCH" not in errors
