"""Channels of a multi-fidelity model, and a new one."""

import pytest
import torch

from finetune.core.errors import RecipeError
from finetune.potentials.sevennet.potential import SevenNetPotential
from finetune.testing.comparing import difference, distorted_batch, predict
from tests.potentials.sevennet.conftest import FAMILY, built, channels, example

ROUNDING = 1e-9


def test_channels_predict_differently() -> None:
    low, high = (built(channels(), head) for head in ("low", "high"))
    assert low.heads == ("low", "high")
    assert (low.head_name, high.head_name) == ("low", "high")
    assert difference(predict(low), predict(high)) > 0.1


def test_channels_that_only_shift_and_scale() -> None:
    settings = channels(head_layers=(), scale=((1.5,) * 4, (3.0,) * 4))
    low, high = (predict(built(settings, head)) for head in ("low", "high"))
    assert low.forces is not None and high.forces is not None
    assert torch.allclose(2 * low.forces, high.forces, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
def test_a_new_head_starts_as_the_chosen_one(bias: bool) -> None:
    potential = built(channels(bias=bias), "high")
    potential.set_references({6: -900.0})
    extended, masks = potential.add_head("mine")
    assert extended.head_name == "mine"
    assert extended.heads == ("low", "high", "mine")
    assert extended.references() == potential.references()
    assert difference(predict(extended), predict(potential)) < ROUNDING
    for head in ("low", "high"):
        old = FAMILY.build(extended.settings, torch.float64, head)
        old.model.load_state_dict(extended.model.state_dict())
        assert difference(predict(old), predict(built(channels(bias=bias), head))) < ROUNDING
    assert sum(int(mask.sum()) for mask in masks.values()) > 0


@pytest.mark.slow
def test_the_masks_are_of_the_new_head_alone() -> None:
    """What they select changes its predictions, and no other head's."""
    settings = channels()
    extended, masks = built(settings, "high").add_head("mine")
    parameters = dict(extended.named_parameters())
    assert masks.keys() <= parameters.keys()
    before = predict(extended)
    with torch.no_grad():
        for name, mask in masks.items():
            assert mask.shape == parameters[name].shape
            parameters[name][mask] += 0.1
    assert difference(predict(extended), before) > 1e-4
    old = FAMILY.build(extended.settings, torch.float64, "high")
    old.model.load_state_dict(extended.model.state_dict())
    assert difference(predict(old), predict(built(settings, "high"))) < ROUNDING


def stored(potential: SevenNetPotential, head: str) -> SevenNetPotential:
    """Return what is opened from the settings and weights that are stored."""
    weights = {**dict(potential.model.named_parameters()), **potential.further_weights()}
    found, own = FAMILY.assemble(potential.settings, weights, potential.dtype, head)
    assert isinstance(found, SevenNetPotential)
    for name, parameter in found.model.named_parameters():
        parameter.data = own[name].detach().clone()
    return found.eval()


@pytest.mark.slow
def test_older_heads_are_opened_as_they_were() -> None:
    """To the last bit, and two new heads one after the other, too."""
    first, _ = built(channels(), "high").add_head("first")
    second, _ = stored(first, "first").add_head("second")
    for head, expected in (("high", built(channels(), "high")), ("first", first)):
        found = stored(second, head)
        assert found.heads == expected.heads
        for name, parameter in expected.model.named_parameters():
            assert torch.equal(found.model.get_parameter(name), parameter), name
    assert stored(second, "second").heads == ("low", "high", "first", "second")


def test_what_cannot_have_a_head_says_why() -> None:
    with pytest.raises(RecipeError, match="one fidelity cannot have more heads"):
        built(FAMILY.example()).add_head("mine")
    with pytest.raises(RecipeError, match="has a head 'low' already"):
        built(channels(), "high").add_head("low")
    with pytest.raises(RecipeError, match="one fidelity"):
        built(example(bias=True)).add_head("mine")


@pytest.mark.slow
def test_new_heads_in_single_precision() -> None:
    potential = built(channels(), "low", torch.float32)
    batch = distorted_batch(potential.cutoff).to(torch.device("cpu"), torch.float32)
    extended, _ = potential.add_head("mine")
    assert extended.dtype == torch.float32
    assert difference(predict(extended, batch), predict(potential, batch)) < 1e-3
