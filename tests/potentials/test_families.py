"""The suite of families on the first family, and on what no family knows."""

from finetune.testing import FamilySuite


class TestMace(FamilySuite):
    kind = "mace"
