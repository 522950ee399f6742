import pytest

from finetune.core.errors import DataError
from finetune.data.splitting import bootstrap, hold_out
from finetune.data.structures import LazySequence, View
from tests.conftest import rattled, structure

STRUCTURES = [structure(rattled("H2O", seed), str(seed)) for seed in range(10)]


def test_hold_out_is_disjoint_complete_and_seeded() -> None:
    kept, held = hold_out(STRUCTURES, 0.3, seed=1)
    assert len(held) == 3
    assert sorted(item.where for item in kept + held) == sorted(item.where for item in STRUCTURES)
    assert [item.where for item in hold_out(STRUCTURES, 0.3, seed=1)[1]] == [
        item.where for item in held
    ]
    assert {item.where for item in hold_out(STRUCTURES, 0.3, seed=2)[1]} != {
        item.where for item in held
    }


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_empty_parts_are_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="Name a validation file"):
        hold_out(STRUCTURES, fraction, seed=0)


def test_a_draw_is_lazy_only_where_the_structures_are() -> None:
    held, lazy = bootstrap(STRUCTURES, seed=1), bootstrap(View(STRUCTURES, range(10)), seed=1)
    assert isinstance(lazy, LazySequence) and not isinstance(held, LazySequence)
    assert list(lazy) == held
