"""Types that change while messages wait and workflows run: promises D1 and D2 over two versions of one program."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from dbos_async import DBOS, DBOSClient, InvalidMessageError, InvalidValueError, SetWorkflowID, Topic
from dbos_async._workflows import registry
from tests.support.eventually import eventually


class Order(BaseModel):
    id: str
    note: str = ""


class OrderWithOption(Order):
    gift: bool = False


class OrderRenamed(BaseModel):
    number: str = Field(validation_alias=AliasChoices("number", "id"))
    note: str = ""


class OrderShorter(BaseModel):
    id: str


class OrderClosed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str


class OrderWithMore(Order):
    cents: int


class Card(BaseModel):
    kind: Literal["card"] = "card"
    digits: str


class Voucher(BaseModel):
    kind: Literal["voucher"] = "voucher"
    code: str


Payment = Annotated[Card | Voucher, Field(discriminator="kind")]


class Change(NamedTuple):
    """What an old version stored, and what a new one reads it as; ``again`` is ``None`` where it cannot."""

    old: Any
    value: Any
    new: Any
    again: Any


FITS = {
    "a new optional field": Change(Order, Order(id="1", note="n"), OrderWithOption, OrderWithOption(id="1", note="n")),
    "a rename with an alias": Change(Order, Order(id="1", note="n"), OrderRenamed, OrderRenamed(number="1", note="n")),
    "a new member of a union": Change(Card, Card(digits="4242"), Payment, Card(digits="4242")),
    "a removed field": Change(Order, Order(id="1", note="n"), OrderShorter, OrderShorter(id="1")),
    "a wider type": Change(int, 7, int | str, 7),
}
DOES_NOT_FIT = {
    "a new required field": Change(Order, Order(id="1", note="n"), OrderWithMore, None),
    "a removed field of a closed model": Change(Order, Order(id="1", note="n"), OrderClosed, None),
    "a narrower type": Change(int | None, None, int, None),
}

SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    SEEN.clear()


def deploy(**types: Any) -> Any:
    """The program as one version of it has it: the types of an argument, a step's result, a message and the result."""

    async def makes() -> Any:
        SEEN.append("made")
        return types["made"]

    makes.__annotations__["return"] = types.get("step", Any)
    step = DBOS.step(name="makes")(makes)

    async def evolves(order: Any) -> Any:
        made, told = await step(), await DBOS.recv(Topic[Any]("told", types.get("recv", Any)))
        SEEN.append((order, made, told))
        await DBOS.recv("end", None)
        return order

    evolves.__annotations__.update({"order": types.get("argument", Any), "return": types.get("argument", Any)})
    registry.registered.pop("evolves", None)
    return DBOS.workflow(name="evolves")(evolves)


async def _has_status(workflow_id: str, status: str) -> bool:
    return (await DBOS.list_workflows(id_prefix=workflow_id))[0].status == status


@pytest.mark.parametrize("change", FITS.values(), ids=FITS)
async def test_d1_what_fits_the_new_type_is_read_as_it_wherever_it_was_recorded(
    change: Change, database_url: str
) -> None:
    places = ("argument", "step", "recv")
    old = deploy(made=change.value, **dict.fromkeys(places, change.old))
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(old, change.value)
        await DBOS.send("w", change.value, Topic[Any]("told", change.old))
        await eventually(lambda: len(SEEN) == 2)
    new = deploy(made=change.value, **dict.fromkeys(places, change.new))
    async with DBOS(database_url):
        await eventually(lambda: len(SEEN) == 3)
        assert ["made", (change.value,) * 3, (change.again,) * 3] == SEEN
        await DBOS.send("w", None, "end")
        # The result is made by the new version, and one that an old version stored is read as it was recorded.
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(new, change.again)
        assert await handle.get_result() == change.again


@pytest.mark.parametrize("place", ["argument", "step", "recv"])
@pytest.mark.parametrize("change", DOES_NOT_FIT.values(), ids=DOES_NOT_FIT)
async def test_d2_w4_what_was_read_and_does_not_fit_any_more_parks_the_workflow_until_the_code_is_repaired(
    change: Change, place: str, database_url: str
) -> None:
    places = ("argument", "step", "recv")
    old = deploy(made=change.value, **dict.fromkeys(places, change.old))
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(old, change.value)
        await DBOS.send("w", change.value, Topic[Any]("told", change.old))
        await eventually(lambda: len(SEEN) == 2)
        await eventually(lambda: _waits_for_the_end("w"))
    deploy(made=change.value, **{**dict.fromkeys(places, change.old), place: change.new})
    async with DBOS(database_url):
        await eventually(lambda: _has_status("w", "REPLAY_MISMATCH"))
        error = (await DBOS.list_workflows())[0].error
        assert error["args"][:2] == ["w", {"argument": "0", "step": "1", "recv": "2"}[place]]
        assert "that fit" in error["args"][2]
        assert await DBOS.list_messages("w", status="rejected") == []
    deploy(made=change.value, **dict.fromkeys(places, change.old))
    async with DBOS(database_url):
        await DBOS.resume_workflow("w")
        await DBOS.send("w", None, "end")
        await (await DBOS.retrieve_workflow("w")).get_result()
    assert ["made", (change.value,) * 3, (change.value,) * 3] == SEEN


async def _waits_for_the_end(workflow_id: str) -> bool:
    return len(await DBOS.list_workflow_steps(workflow_id)) == 3


@pytest.mark.parametrize("change", [*FITS.values(), *DOES_NOT_FIT.values()], ids=[*FITS, *DOES_NOT_FIT])
async def test_d2_messages_that_waited_over_a_deploy_are_read_or_rejected_and_redelivered_after_a_fix(
    change: Change, database_url: str
) -> None:
    wanted = change.new

    @DBOS.workflow(name="receives what waited")
    async def receives() -> list[Any]:
        seen: list[Any] = []
        while len(seen) < 3:
            try:
                seen.append(await DBOS.recv(Topic[Any]("t", wanted), None))
            except InvalidMessageError:
                seen.append("rejected")
        SEEN.extend(seen)
        return []

    async with DBOS(database_url) as dbos, DBOSClient(database_url) as client:
        # The workflow is there and no executor of the new version runs it yet.
        registry.registered.pop("receives what waited")
        with SetWorkflowID("w"):
            await client.start_workflow("receives what waited")
        for _ in range(2):
            await client.send("w", change.value, Topic[Any]("t", change.old))
        assert dbos is not None
    registry.registered["receives what waited"] = receives
    async with DBOS(database_url):
        if change.again is not None:
            await DBOS.send("w", change.again, Topic[Any]("t", change.new))
            await (await DBOS.retrieve_workflow("w")).get_result()
            assert [change.again] * 3 == SEEN
            return
        await eventually(lambda: _rejected("w", 2))
        first, _ = await DBOS.list_messages("w")
        wanted = change.old  # the fix
        await DBOS.redeliver(first.id)
        await (await DBOS.retrieve_workflow("w")).get_result()
        # That recv had begun before the fix, so it still read as it was told to.
        assert SEEN == ["rejected"] * 3


async def _rejected(workflow_id: str, count: int) -> bool:
    return len(await DBOS.list_messages(workflow_id, status="rejected")) == count


async def test_d2_a_new_member_of_a_union_that_comes_before_the_deploy_is_redelivered_after_it(
    database_url: str,
) -> None:
    """Senders are deployed first by mistake: an old receiver rejects what it does not know, and nothing is lost."""
    wanted: Any = Card

    @DBOS.workflow(name="is paid")
    async def is_paid() -> list[Any]:
        seen: list[Any] = []
        for _ in range(2):
            try:
                received: Any = await DBOS.recv(Topic[Any]("paid", wanted), None)
                seen.append(received.model_dump())
            except InvalidMessageError as error:
                seen.append(error.message_id)
        return seen

    sent = Voucher(code="X")
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(is_paid)
        await DBOS.send("w", sent, Topic[Card | Voucher]("paid", Payment))
        await eventually(lambda: _rejected("w", 1))
    wanted = Payment
    async with DBOS(database_url):
        (message,) = await DBOS.list_messages("w")
        assert message.payload == sent.model_dump()
        await DBOS.redeliver(message.id)
        assert await (await DBOS.retrieve_workflow("w")).get_result() == [str(message.id), sent.model_dump()]


async def test_d2_arguments_that_never_fitted_are_the_error_of_their_workflow(database_url: str) -> None:
    """A start by name checks no types: the first run finds the mistake, and ends at once."""
    deploy(made=1, argument=OrderWithMore)
    async with DBOS(database_url), DBOSClient(database_url) as client:
        handle = await client.start_workflow("evolves", {"id": "1"})
        with pytest.raises(InvalidValueError, match=rf"argument 'order' of workflow '{handle.workflow_id}'.* cents: "):
            await handle.get_result()


async def test_d2_the_result_of_an_old_version_is_read_as_the_type_of_whoever_asks(database_url: str) -> None:
    old = deploy(made=1, recv=Any, argument=Order)
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(old, Order(id="1"))
        await DBOS.send("w", 1, "told")
        await DBOS.send("w", None, "end")
        assert await handle.get_result() == Order(id="1")
        for declared, found in ((OrderWithOption, OrderWithOption(id="1")), (OrderRenamed, OrderRenamed(number="1"))):
            with SetWorkflowID("w"):
                new = await DBOS.start_workflow(deploy(made=1, argument=declared), found)
            assert await new.get_result() == found
        with SetWorkflowID("w"):
            closed = await DBOS.start_workflow(deploy(made=1, argument=OrderWithMore), OrderWithMore(id="1", cents=1))
        with pytest.raises(InvalidValueError, match="The result of workflow 'w' cannot be used: cents: Field required"):
            await closed.get_result()
        assert (await closed.get_status()).output == {"id": "1", "note": ""}
