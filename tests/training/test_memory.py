"""Memory does not grow over a long run."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

import finetune
from finetune.potentials.mace.potential import construct, unfilled
from finetune.training.loop import Trainer
from tests.conftest import recipe_for
from tests.tiny import tiny_settings


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it")
def test_memory_is_that_of_the_process_alone() -> None:
    """A process inherits the largest size of the one that started it in what getrusage says."""
    ballast = b"x" * 2**30
    code = "import torch; from finetune.core.devices import peak_memory as peak; "
    code += "print(peak(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True)
    assert 2**24 < int(done.stdout) < len(ballast)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_a_run_like_one_before_compiles_nothing_that_stays(
    workspace: Path, tmp_path: Path, adapter: str
) -> None:
    """TorchScript keeps what it compiles until the process ends."""
    kept = torch.jit._recursive.concrete_type_store.type_store
    sizes = []
    for number in range(2):
        output = tmp_path / f"{number}"
        finetune.run(recipe_for(workspace, output, adapter=adapter, train={"epochs": 1}))
        sizes.append(len(kept))
    assert sizes[0] == sizes[1]


def test_a_model_to_be_filled_is_one_that_was_built_but_for_its_weights() -> None:
    settings = tiny_settings(atomic_energies=[[-13.123456789, -1030.0, -1480.0, -2040.0]])
    before = torch.get_rng_state()
    copies = [unfilled(settings, torch.float64) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    built = construct(settings, torch.float64)
    for copy in copies:
        for (name, one), (other, two) in zip(
            built.named_parameters(), copy.named_parameters(), strict=True
        ):
            assert (name, one.shape, one.stride()) == (other, two.shape, two.stride())
            two.data.copy_(one.data)
        for (name, one), (other, two) in zip(
            built.named_buffers(), copy.named_buffers(), strict=True
        ):
            assert (name, one.tolist()) == (other, two.tolist())
    first, second = (dict(copy.named_parameters()) for copy in copies)
    assert not {p.data_ptr() for p in first.values() if p.numel()} & {
        p.data_ptr() for p in second.values()
    }


@pytest.mark.slow
def test_two_thousand_steps_take_no_more_memory_than_two_hundred(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident: dict[int, int] = {}
    step = Trainer._step

    def watched(self: Trainer, pieces: object) -> None:
        step(self, pieces)  # type: ignore[arg-type]
        resident[self.progress.step] = psutil.Process().memory_info().rss

    monkeypatch.setattr(Trainer, "_step", watched)
    finetune.run(recipe_for(workspace, tmp_path / "run", train={"epochs": 700, "max_steps": 2000}))
    assert max(resident) == 1999
    growth = (resident[1999] - resident[200]) / 2**20
    print(f"resident size grew by {growth:.1f} MiB between steps 200 and 2,000")
    assert growth < 20
