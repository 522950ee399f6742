"""Every registered adapter, by the suite that adapters of one's own inherit."""

from typing import Any

import pytest

from finetune.adapters.adapter import Adapter
from finetune.potentials.family import UNNAMED, families
from finetune.potentials.family import family as get_family
from finetune.recipe.plugins import adapters
from finetune.testing import AdapterSuite

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "readout": {},
    "shift": {},
    "lora": {"rank": 2},
    "head": {"name": "cc"},
    "frozen": {"train": ["readouts.*", "products.1"]},
}


def test_every_built_in_adapter_is_tested() -> None:
    assert {*KINDS, "force_head"} == set(adapters.builtin)


class Suite(AdapterSuite):
    """The suite, of which the runs are slow tests."""

    @pytest.mark.slow
    def test_a_run_is_resumed_opened_and_exported(self) -> None:
        super().test_a_run_is_resumed_opened_and_exported()

    @pytest.mark.slow
    def test_two_processes_train_as_one(self) -> None:
        super().test_two_processes_train_as_one()


class TestForceHead(Suite):
    conservative = False

    def adapter(self) -> Adapter:
        cls = adapters.get("force_head")
        return cls(cls.Options.model_validate({"channels": 4}))


@pytest.mark.slow
class TestForceHeadOnSevenNet(TestForceHead):
    family = "sevennet"


SLOW = {"frozen", "head", "readout", "shift"}
CASES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in KINDS]


@pytest.mark.parametrize("name", CASES, scope="class")
class TestRegisteredAdapters(Suite):
    @pytest.fixture(autouse=True)
    def _case(self, name: str) -> None:
        self.name = name

    def adapter(self) -> Adapter:
        cls = adapters.get(self.name)
        return cls(cls.Options.model_validate(KINDS[self.name]))


OTHERS = [name for name in families.builtin if name != UNNAMED]
ANYWHERE = {kind: KINDS[kind] for kind in ("full", "readout", "shift", "lora")}
ANYWHERE["frozen"] = {"freeze": ["readout"]}


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS, scope="class")
@pytest.mark.parametrize("name", ANYWHERE, scope="class")
class TestAdaptersOfOtherFamilies(AdapterSuite):
    """`head` is tested with the families that have further heads."""

    @pytest.fixture(autouse=True)
    def _case(self, name: str, family: str) -> None:
        for package in get_family(family).packages:
            pytest.importorskip(package.replace("-", "_"))
        self.name, self.family = name, family
        self.rotations = family != "orb"

    def adapter(self) -> Adapter:
        cls = adapters.get(self.name)
        return cls(cls.Options.model_validate(ANYWHERE[self.name]))


@pytest.mark.slow
class TestLoraOfEveryOrder(AdapterSuite):
    def adapter(self) -> Adapter:
        cls = adapters.get("lora")
        return cls(cls.Options.model_validate({"rank": 2, "contractions": "all"}))
