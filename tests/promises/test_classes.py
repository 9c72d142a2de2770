"""Classes of every kind have workflows, and modules that are loaded twice register their objects once (D5, W1)."""

from __future__ import annotations

import abc
import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict

from dbos_async import DBOS, RegistrationError, StepFunction, Workflow
from tests.support.modules import made_by

T = TypeVar("T")


@contextlib.contextmanager
def refused_in_a_class(sentence: str) -> Iterator[None]:
    """Python 3.11 says it in a RuntimeError of its own."""
    with pytest.raises((RegistrationError, RuntimeError)) as raised:
        yield
    error = raised.value if isinstance(raised.value, RegistrationError) else raised.value.__cause__
    assert isinstance(error, RegistrationError)
    assert re.search(sentence, str(error))


def test_d5_a_workflow_that_would_be_bound_wrongly_is_refused_with_its_class() -> None:
    with refused_in_a_class("write @staticmethod above"):

        class _Strange:
            @DBOS.workflow()
            async def order(this, item: str) -> str:  # noqa: N805  # the mistake under test
                return item


class Store:
    """Workflows and steps in a class."""

    shelf = "books"

    @DBOS.step()
    @staticmethod
    def static(item: str) -> str:
        return item

    @staticmethod
    @DBOS.step()
    async def static_too(item: str) -> str:
        return item

    @DBOS.step()
    @classmethod
    def of_class(cls, item: str) -> str:
        return f"{cls.shelf}: {item}"

    @classmethod
    @DBOS.step()
    async def of_class_too(cls, item: str) -> str:
        return f"{cls.shelf}: {item}"

    @DBOS.step()
    async def of_object(self, item: str) -> str:
        return f"{self.shelf}: {item}"

    @DBOS.workflow()
    @staticmethod
    async def sell(item: str) -> list[str]:
        return [
            await Store.static(item), await Store().static(item), await Store.static_too(item), await Store().static_too(item),
            await Store.of_class(item), await Toys().of_class(item), await Store().of_class_too(item),
            await Toys.of_class_too(item), await Toys().of_object(item),
        ]  # fmt: skip

    @staticmethod
    @DBOS.workflow()
    async def sell_too(item: str) -> str:
        return item

    @DBOS.workflow()
    @classmethod
    async def sell_of_class(cls, item: str) -> str:
        return f"{cls.shelf}: {item}"


class Toys(Store):
    """A class that inherits them."""

    shelf = "toys"


@pytest.mark.usefixtures("dbos")
async def test_d5_static_and_class_methods_are_workflows_and_steps() -> None:
    sold = ["x", "x", "x", "x", "books: x", "toys: x", "books: x", "toys: x", "toys: x"]
    assert await Store.sell("x") == await Toys().sell("x") == sold
    assert await Store.sell_too("x") == await Store().sell_too("x") == "x"
    assert await Store.sell_of_class("x") == await Store().sell_of_class("x") == "books: x"
    assert await (await DBOS.start_workflow(Store.sell_of_class, "y")).get_result() == "books: y"
    (found, *_) = await DBOS.list_workflows(name="Store.sell_of_class")
    assert found.input == {"args": ["x"], "kwargs": {}}


@dataclass(frozen=True, slots=True)
class Point:
    x: int

    @DBOS.workflow()
    async def moved(self, by: int) -> int:
        return self.x + by


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, ignored_types=(Workflow, StepFunction))

    config_name: str

    @DBOS.step(name="step of a model")
    async def suffix(self) -> str:
        return "!"

    @DBOS.workflow()
    async def said(self) -> str:
        return self.config_name + await self.suffix()


class Abstract(abc.ABC):
    @property
    @abc.abstractmethod
    def config_name(self) -> str: ...

    @DBOS.workflow()
    async def told(self) -> str:
        return self.config_name


class Mixin:
    @DBOS.workflow()
    async def mixed(self) -> str:
        return type(self).__name__


class Meta(type):
    """A metaclass that does nothing."""


class Concrete(Mixin, Abstract, Generic[T]):
    @property
    def config_name(self) -> str:
        return "concrete"

    @DBOS.workflow()
    async def same(self, value: T) -> T:
        return value


class OfMeta(metaclass=Meta):
    __slots__ = ()
    config_name: ClassVar[str] = "of a metaclass"

    @DBOS.workflow()
    async def ran(self) -> str:
        return self.config_name


POINTS = [DBOS.register_instance(Point(1), name) for name in ("p", "q")]
MODEL = DBOS.register_instance(Model(config_name="model"))
CONCRETE = DBOS.register_instance(Concrete[int]())
OF_META = DBOS.register_instance(OfMeta())


def local_class() -> Any:
    class Local:
        config_name = "local"

        @DBOS.workflow()
        async def ran(self) -> str:
            return self.config_name

    return DBOS.register_instance(Local())


_, LOCAL = local_class(), local_class()
"""A class that is made twice counts once, as a function does: what was made last runs."""


@pytest.mark.usefixtures("dbos")
async def test_d5_classes_of_every_kind_have_workflows() -> None:
    assert [await point.moved(2) for point in POINTS] == [3, 3]
    assert await MODEL.said() == "model!"
    assert [await CONCRETE.told(), await CONCRETE.mixed(), await CONCRETE.same(3)] == ["concrete", "Concrete", 3]
    assert [await OF_META.ran(), await LOCAL.ran()] == ["of a metaclass", "local"]
    assert {each.name for each in await DBOS.list_workflows()} == {
        "Point.moved@p", "Point.moved@q", "Model.said@model", "Abstract.told[Concrete]@concrete", "Mixin.mixed[Concrete]@concrete",
        "Concrete.same@concrete", "OfMeta.ran@of a metaclass", "local_class.<locals>.Local.ran@local",
    }  # fmt: skip


MODULE = """
from dbos_async import DBOS
class {0}:
    def __init__(self, name, price):
        self.config_name, self.price = name, price
    @DBOS.workflow()
    async def sell(self, item):
        return [self.price, item, __name__]
    @DBOS.workflow()
    @classmethod
    async def make(cls):
        return [cls.__name__, __name__]
class Big{0}({0}):
    pass
def made(name, price):
    return DBOS.register_instance({0}(name, price))
shop, big = made("shop", {1}), DBOS.register_instance(Big{0}("shop", {1}))
"""


@pytest.mark.parametrize("names", [("__main__", "app"), ("app", "src.app"), ("app", "app")])
async def test_d5_a_module_that_is_loaded_twice_registers_its_objects_once(
    database_url: str, names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "Of" + "".join(names).replace(".", "").replace("_", "")
    first: Any = made_by(MODULE.format(kind, 1), names[0], tmp_path / "app.py")
    last: Any = made_by("\n\n" + MODULE.format(kind, 2), names[1], tmp_path / "app.py")  # as after an edit and a reload
    for module in (first, last):
        module.__file__ = str(tmp_path / "app.py")
        monkeypatch.setitem(sys.modules, module.__name__, module)
    async with DBOS(database_url):
        for module in (first, last):  # what was loaded last is what runs
            assert await module.shop.sell("x") == await module.big.sell("x") == [2, "x", names[1]]
            assert await getattr(module, f"Big{kind}").make() == [f"Big{kind}", names[1]]
        assert {one.name for one in await DBOS.list_workflows()} == {
            f"{kind}.sell@shop", f"{kind}.sell[Big{kind}]@shop", f"{kind}.make[Big{kind}]",
        }  # fmt: skip
    for module in (first, last):
        with pytest.raises(RegistrationError, match=f"Two objects of {kind} are registered as 'shop'"):
            module.made("shop", 3)
            module.made("shop", 4)


def test_d5_an_object_of_a_class_that_is_not_loaded_again_may_come_again(tmp_path: Path) -> None:
    library: Any = made_by(MODULE.format("OfLibrary", 1), "library", tmp_path / "library.py")
    program = "from dbos_async import DBOS\nDBOS.register_instance(kind('program', 1))"
    for _ in range(2):  # as after a reload
        code = compile(program, str(tmp_path / "program.py"), "exec")
        exec(code, {"__name__": "program", "kind": library.OfLibrary})
    with pytest.raises(RegistrationError, match="Two objects of OfLibrary are registered as 'program'"):
        exec(code, {"__name__": "program", "kind": library.OfLibrary})  # the same line again, as in a loop


async def test_d5_two_subclasses_of_one_name_are_told_apart_or_refused(database_url: str, tmp_path: Path) -> None:
    base: Any = made_by(MODULE.format("OfBase", 1), "base", tmp_path / "base.py")
    source = "class Sub(base):\n    pass\n"
    subs: list[Any] = []
    for name in ("one", "other"):
        module: dict[str, Any] = {"__name__": name, "base": base.OfBase}
        exec(compile(source, str(tmp_path / f"{name}.py"), "exec"), module)
        subs.append(module["Sub"])
    async with DBOS(database_url):
        for sub in subs:
            with pytest.raises(
                RegistrationError, match=r"Two classes named Sub inherit the workflow 'OfBase\.make' \(of "
            ):
                await sub.make()
        assert await base.BigOfBase.make() == ["BigOfBase", "base"]
    DBOS.register_instance(subs[0]("sub", 1))
    with pytest.raises(RegistrationError, match="Two objects of Sub are registered as 'sub'"):
        DBOS.register_instance(subs[1]("sub", 1))
