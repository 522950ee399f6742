"""Recipes: overrides, defaults, round trip, and a clear message for every fault."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
import yaml

from finetune.adapters.adapter import AdaptedPotential, Adapter
from finetune.core.errors import RecipeError
from finetune.losses.loss import TotalLoss
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import DisplacementOptions, TaylorOptions
from finetune.recipe.optimisers import OPTIMISERS
from finetune.recipe.plugins import adapters
from finetune.recipe.recipe import Recipe
from finetune.recipe.sections import TrainRecipe

SMALL = {"foundation": "x", "data": {"train": "a.xyz"}, "output": "runs/x"}


def parsed(*overrides: str, **changes: object) -> Recipe:
    return Recipe.parse({**SMALL, **changes}, overrides)


def test_overrides_reach_every_depth() -> None:
    recipe = parsed(
        "train.learning_rate=1e-4",
        "losses.pitc.displacement=0.02",
        "data.keys.energy=E",
        "adapter.kind=readout",
        "train.ema=null",
    )
    assert recipe.train.learning_rate == 1e-4
    assert isinstance(recipe.losses["pitc"], TaylorOptions)
    assert recipe.losses["pitc"].displaced == DisplacementOptions(size=0.02)
    assert recipe.data.keys.energy == "E"
    assert recipe.adapter == {"kind": "readout"}
    assert recipe.train.ema is None


LORA = {"kind": "lora", "rank": 2}


@pytest.mark.parametrize("override", ["adapter.kind=full", "adapter={kind: full}", "adapter=full"])
def test_another_kind_of_adapter_drops_the_options_of_the_former(override: str) -> None:
    assert parsed(override, adapter=LORA).adapter == {"kind": "full"}
    stages = {"a": {"adapter": LORA}, "b": {"adapter": LORA}}
    climbed = parsed(f"stages.b.{override}", stages=stages).stage_recipes()
    assert [climbed[name].adapter["kind"] for name in "ab"] == ["lora", "full"]
    assert climbed["a"].adapter["rank"] == 2


def test_the_same_kind_of_adapter_keeps_its_options() -> None:
    for override in ("adapter.alpha=4", "adapter={kind: lora, alpha: 4}", "adapter.kind=lora"):
        assert parsed(override, adapter=LORA).adapter["rank"] == 2
    other = parsed("adapter.kind=frozen", "adapter.train=[readouts]", adapter=LORA)
    assert other.adapter["train"] == ["readouts"]
    with pytest.raises(RecipeError, match="adapter.rank: unknown key: this kind has no options"):
        parsed(adapter={"kind": "full", "rank": 2})


def test_a_mapping_in_an_override_is_merged_and_a_weight_of_zero_takes_a_loss_out() -> None:
    losses = {"energy": {"weight": 2.0}, "pitc": {"weight": 0.1}}
    merged = parsed("losses={energy: {weight: 1}}", losses=losses).losses
    assert {name: item.peak_weight for name, item in merged.items()} == {"energy": 1, "pitc": 0.1}
    assert list(TotalLoss(parsed("losses.pitc.weight=0", losses=losses).losses).losses) == [
        "energy"
    ]


def test_dump_fills_in_defaults_and_comes_back_equal(tmp_path: Path) -> None:
    recipe = parsed(
        losses={"energy": {}, "far": {"kind": "pitc", "displacement": {"kind": "sphere"}}},
        adapter={"kind": "frozen", "train": ["readouts.*"]},
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.dump())
    assert Recipe.load(path) == recipe
    assert "batch_size: 5" in recipe.dump()


def test_interpolation(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "foundation: x\ndata: {train: a.xyz, test: '${data.train}'}\noutput: runs/${foundation}\n"
    )
    recipe = Recipe.load(path)
    assert recipe.data.test == "a.xyz"
    assert recipe.output == "runs/x"


@contextmanager
def registered(name: str, adapter: type[Adapter]) -> Iterator[None]:
    adapters.register(name)(adapter)
    try:
        yield
    finally:
        del adapters._registered[name]


FAULTS = {
    "train.epoch=3": r"train.epoch: unknown key. Did you mean 'epochs'\?",
    "lossess.energy.weight=1": r"lossess: unknown key. Did you mean 'losses'\?",
    "train.epochs=0": r"train.epochs: must be at least 1 \(got 0\)",
    "train.epochs=many": r"train.epochs: must be a whole number \(got 'many'\)",
    "train.learning_rate=.nan": "train.learning_rate",
    "train.learning_rate=-1": "train.learning_rate: must be above 0",
    "train.precision=float16": "train.precision: must be 'float32', 'float64' or 'tf32'",
    "train.epochs=1000000000000000000": "train.epochs: must be at most 10000000",
    "train.workers=10000": "train.workers: must be at most 256",
    "train.epochs=true": "train.epochs: must be a number, not true or false",
    "losses.energy.weight=true": "losses.energy.weight: must be a number, not true or false",
    "reference_energies={H: true}": "reference_energies: must be a number, not true",
    "reference_energies={H: a}": r"reference_energies.H: must be a number \(got 'a'\)",
    "data.train=3": r"  data.train: must be text or a list \(got 3\)$",
    "data.train=[a.xyz,2]": r"faults?:\n  data.train.1: must be text \(got 2\)$",
    "losses.total/energy.kind=energy": "the name of a loss is letters",
    "losses.pull_to_foundation.kind=energy": "is recorded under this name already",
    "losses.pitcc.weight=1": r"unknown loss 'pitcc'. Did you mean 'pitc'\?",
    "losses.pitc.displacment=1": r"displacment: unknown key. Did you mean 'displacement'\?",
    "losses.pitc.displacement=-0.1": "displacement",
    "losses.pitc.weight=-1": "weight",
    "losses.energy=1": r"write `energy: \{weight: 1\}`",
    "adapter.kind=redout": r"unknown adapter 'redout'. Did you mean 'readout'\?",
    "adapter=[1]": r"write `adapter: \{kind: NAME\}`",
    "adapter.rank=4": r"rank: unknown key",
    "data.valid=1.5": "a validation fraction lies between 0 and 1",
    "data=null": "data",
    "output=": "output: must be text",
    "output='  '": "output: name a folder for the run, e.g. output=runs/mine",
    "train.seed=100000000000000000000000": "train.seed",
    "data.train=a.xyz@100:": "quote it",
    "reference_energies=guess": "reference_energies: choose 'keep', 'isolated' or 'estimate'",
    "nonsense": r"override 'nonsense' must read key.sub=value",
    "=3": "must read key.sub=value",
    "data=[a.xyz]": r"override 'data=\[a.xyz\]' does not fit: the recipe has a mapping there",
    "foundation=": r"foundation: must be text \(got nothing\)",
    "train..epochs=3": "override 'train..epochs=3' must read key.sub=value",
    "train.epochs=[3": r"override 'train.epochs=\[3' cannot be read: .*close brackets",
    "data.train=@a.xyz": "override 'data.train=@a.xyz' cannot be read: found character .*quote",
    "train.epochs=${epoch}": "train.epochs: Interpolation key 'epoch' not found$",
    "train.epochs=${": r"override 'train.epochs=\${' cannot be read: train.epochs: no viable",
}


@pytest.mark.parametrize("override", FAULTS)
def test_faults_are_explained(override: str) -> None:
    with pytest.raises(RecipeError, match=FAULTS[override]):
        parsed(override)


def test_frozen_needs_one_list() -> None:
    with pytest.raises(RecipeError, match="exactly one of `train` and `freeze`"):
        parsed(adapter={"kind": "frozen"})


def test_a_recipe_that_learns_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="every loss has weight 0"):
        parsed(losses={"energy": {"weight": 0}})
    with pytest.raises(RecipeError, match="name at least one loss"):
        parsed(losses={})


def test_what_is_left_open_is_missing() -> None:
    with pytest.raises(RecipeError, match="Missing mandatory value: output"):
        parsed(output="???")


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text, message in (
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "must hold a mapping"),
        ("", "foundation"),
        ("just words", "just words: unknown key"),
        ("foundation: ${nowhere}\n", "foundation: Interpolation key 'nowhere' not found$"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            Recipe.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError):
        Recipe.load(path)
    with pytest.raises(RecipeError, match="no recipe at"):
        Recipe.load(tmp_path / "nothing.yaml")


def test_recipes_do_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        parsed().output = "elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"pisc": {"displacement": {"kind": "adversarial"}}}, "has only one for"),
        ({"replay": {"displacement": None, "copies": 2}}, "`copies` needs a displacement"),
        ({"strain": {"strain": 0.5}}, "strains lie above 0 and up to 0.1"),
        ({"pitc": {"displacement": {"size": {"kind": "linear", "last": 0}}}}, "sizes lie above 0"),
        ({"pitc": {"displacement": {"kind": "thermal", "modes": 3}}}, "`modes` belongs to `kind"),
        ({"pitc": {"displacement": {"kind": "gauss"}}}, "displacement.kind: must be 'uniform', "),
        ({"pitc": {"displacement": {"siez": 3}}}, "displacement.siez: unknown key. Did you mean"),
        ({"pitc": {"displacement": {"size": {"fraction": 0}}}}, "size.fraction: must be above 0"),
    ],
)
def test_displacements_and_strains_are_checked(losses: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.parse({**SMALL, "losses": losses})


def test_every_faulty_loss_is_told_by_its_name() -> None:
    losses = {
        "pisc": {"weight": -1},
        "far": {"kind": "pitc", "displacement": {"size": 5}},
        "pict": {},
        "energy": 3,
    }
    with pytest.raises(RecipeError) as caught:
        Recipe.parse({**SMALL, "losses": losses})
    told = str(caught.value).splitlines()
    assert told[0] == "the recipe has 4 faults:"
    assert told[1].startswith("  losses.pisc.weight: must be at least 0")
    assert told[2].startswith("  losses.far.displacement.size: must be at most 1 ")
    assert told[3].startswith("  losses.pict: unknown loss 'pict'. Did you mean")
    assert told[4].startswith("  losses.energy: write `energy: {weight: 3}`")


def test_hints_are_for_what_they_are_about() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse({"data": {"train": "a"}, "output": "x", "head": None})
    assert str(caught.value).splitlines()[1:] == ["  foundation: is missing"]
    with pytest.raises(RecipeError, match="stages.a.train must be a mapping"):
        Recipe.parse({**SMALL, "stages": {"a": {"train": "x"}}})
    with pytest.raises(RecipeError, match="  adapter.rank: must be at least 1"):
        Recipe.parse({**SMALL, "adapter": {"kind": "lora", "rank": 0}})


def test_the_kind_of_adapter_decides_what_nobody_wrote() -> None:
    full, lora = parsed().train, parsed("adapter.kind=lora").train
    assert (full.learning_rate, full.ema, full.gradient_clip) == (1e-3, 0.999, 1.0)
    assert (lora.learning_rate, lora.ema, lora.gradient_clip) == (1e-2, 0.99, 10.0)


def test_what_was_written_is_not_overridden() -> None:
    recipe = parsed("adapter.kind=lora", "train.learning_rate=1e-3", "train.ema=null")
    assert (recipe.train.learning_rate, recipe.train.ema) == (1e-3, None)
    assert recipe.adapter_defaults == {"gradient_clip": 10.0}
    again = Recipe.parse({**recipe.written(), "adapter": "full"})
    assert (again.train.learning_rate, again.train.ema) == (1e-3, None)
    assert again.train.gradient_clip == 1.0


def test_a_dump_no_longer_depends_on_defaults() -> None:
    recipe = parsed("adapter.kind=lora")
    stored = Recipe.parse(yaml.safe_load(recipe.dump()))
    assert stored.adapter_defaults == {}
    assert stored.differences(recipe) == []
    assert Recipe.parse(recipe.written()).adapter_defaults == recipe.adapter_defaults


def test_each_stage_has_the_defaults_of_its_own_adapter() -> None:
    stages = {
        "a": {"train": {"epochs": 3}},
        "b": {"adapter": "lora"},
        "c": {"adapter": "lora", "train": {"learning_rate": 3e-3}},
    }
    recipe = parsed("train.ema=0.9", stages=stages)
    for climbed in (recipe, Recipe.parse(yaml.safe_load(recipe.dump()))):
        rates = [stage.train.learning_rate for stage in climbed.stage_recipes().values()]
        assert rates == [1e-3, 1e-2, 3e-3]
        assert [stage.train.gradient_clip for stage in climbed.stage_recipes().values()] == [
            1.0,
            10.0,
            10,
        ]
        assert {stage.train.ema for stage in climbed.stage_recipes().values()} == {0.9}
        assert climbed.differences(recipe) == []


def test_a_plug_in_declares_how_it_is_trained() -> None:
    from finetune.recipe.adapter_options import TrainingDefaults

    class Shy(Adapter):
        training_defaults = TrainingDefaults("it is shy", learning_rate=1e-5, gradient_clip=None)

        def attach(self, potential: Potential) -> AdaptedPotential:
            raise NotImplementedError

    with registered("shy", Shy):
        train = parsed("adapter.kind=shy").train
    assert (train.learning_rate, train.ema, train.gradient_clip) == (1e-5, 0.999, None)


def test_overrides_reach_only_stages_that_are_there() -> None:
    stages = {"cheap": {"train": {"epochs": 3}}, "dear": {}}
    with pytest.raises(RecipeError, match="no such stage. Did you mean 'cheap'?.*cheap, dear"):
        parsed("stages.cheep.train.epochs=5", stages=stages)
    with pytest.raises(RecipeError, match="It has: none"):
        parsed("stages.cheap.train.epochs=5")


def test_every_optimiser_of_a_recipe_has_rules() -> None:
    assert set(get_args(TrainRecipe.model_fields["optimiser"].annotation)) == set(OPTIMISERS)
    assert all(rules.name == name for name, rules in OPTIMISERS.items())
