"""Make the embedded foundation potential ``tiny-xtb-hcno``: data, training, figures, export.

``python data/make_foundation.py generate|train|evaluate|export``: ``generate`` and ``train`` go on
where an interrupted run of them stopped. Needs tblite and RDKit
(``pip install -c constraints.txt tblite rdkit``).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch
    from mace.modules.models import ScaleShiftMACE

app = typer.Typer(no_args_is_help=True, add_completion=False)

NAME = "tiny-xtb-hcno"
Work = Annotated[Path, typer.Option(help="Folder of the data set, checkpoints and logs.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the finished potential; that of the package if none.")
]
Direct = Annotated[bool, typer.Option(help="With a head for forces, from the finished potential.")]
Seed = Annotated[int, typer.Option(help="Seed of molecules, split, sampling and training.")]
DEFAULT_WORK = Path(".work/foundation")
FOUNDATIONS = Path("data/foundation")


def _finished(out: Path | None, direct: bool) -> Path:
    return out or FOUNDATIONS / (f"{NAME}-direct" if direct else NAME)


@app.callback()
def main() -> None:
    """Make the embedded foundation potential ``tiny-xtb-hcno``."""


@app.command()
def generate(
    work: Work = DEFAULT_WORK,
    seed: Seed = 7,
    minutes: Annotated[float, typer.Option(help="Wall-clock limit.")] = 60.0,
) -> None:
    """Label configurations of about two thousand molecules with GFN2-xTB."""
    from make_foundation.generation import generate as run

    typer.echo(run(work / "configurations", seed, 60.0 * minutes))


@app.command()
def train(
    work: Work = DEFAULT_WORK,
    seed: Seed = 7,
    minutes: Annotated[float, typer.Option(help="Training time, all sittings.")] = 60.0,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile/--eager",
            help="Compile the step (minutes once, then twice as fast).",
        ),
    ] = True,
    direct: Direct = False,
) -> None:
    """Train within a wall-clock budget; the learning rate ends low when the budget ends."""
    _prepare_compiler(work)
    from make_foundation.training import Schedule, Settings, Trainer

    schedule = Schedule(peak_rate=3e-3) if direct else Schedule()
    settings = Settings(budget_s=60.0 * minutes, seed=seed, schedule=schedule)
    Trainer(work, settings, compiled, FOUNDATIONS / NAME if direct else None).run()


def _prepare_compiler(work: Path) -> None:
    """Has to come before torch is imported: TorchScript functions cannot be traced."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    os.environ["PYTORCH_JIT"] = "0"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((work / "compiled").resolve()))


def _trained(
    work: Path, dtype: torch.dtype, direct: bool = False
) -> tuple[ScaleShiftMACE, dict[str, Any]]:
    """The averaged model of the last checkpoint, and its keyword arguments."""
    import torch
    from make_foundation.direct import DirectModel
    from make_foundation.model import build

    folder = work / ("training-direct" if direct else "training")
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.exists():
        raise typer.BadParameter(f"no checkpoint at {checkpoint}: run the 'train' step first")
    kwargs = json.loads((folder / "kwargs.json").read_text(encoding="utf-8"))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = DirectModel(kwargs) if direct else build(kwargs, codegen=False)
    finally:
        torch.set_default_dtype(before)
    average = torch.load(checkpoint, weights_only=True)["average"]
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), average, strict=True):
            parameter.copy_(value)
    return model.eval(), kwargs


@app.command()
def evaluate(
    work: Work = DEFAULT_WORK,
    out: Out = None,
    seed: Seed = 7,
    nve_steps: Annotated[int, typer.Option(help="Steps of 0.5 fs.")] = 20_000,
    direct: Direct = False,
) -> None:
    """Held-out errors and constant-energy dynamics, written to ``metrics.json``."""
    _prepare_compiler(work)
    import torch
    from make_foundation.direct import evaluate as of_head
    from make_foundation.evaluation import evaluate as run
    from make_foundation.generation import write_json

    model, _ = _trained(work, torch.float32, direct)
    if direct:
        figures = of_head(model, work, seed)
    else:
        figures = run(model, _trained(work, torch.float64)[0], work, seed, nve_steps)
    out = _finished(out, direct)
    log = work / ("training-direct" if direct else "training") / "log.jsonl"
    checks = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figures["training"] = next(c for c in reversed(checks) if c["event"] == "check")
    figures["generation_wall_s"] = json.loads(
        (work / "configurations" / "wall_time.json").read_text(encoding="utf-8")
    )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "metrics.json", figures)
    shown = ("head", "gradient", "inconsistency_mev_per_angstrom") if direct else ("errors", "nve")
    typer.echo(json.dumps({name: figures[name] for name in shown}, indent=2))


@app.command()
def export(work: Work = DEFAULT_WORK, out: Out = None, direct: Direct = False) -> None:
    """Store the potential as ``config.json`` and ``model.safetensors`` (single precision)."""
    _prepare_compiler(work)
    import torch
    from make_foundation.export import export_direct, export_mace

    out = _finished(out, direct)
    model, kwargs = _trained(work, torch.float32, direct)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    metadata = {
        "name": out.name,
        "level_of_theory": "GFN2-xTB",
        "elements": ["H", "C", "N", "O"],
        "license": "MIT",
        "configurations": metrics["data"]["configurations"],
        "molecules": metrics["data"]["molecules"],
        "held_out": metrics["head"] if direct else metrics["errors"]["test"],
    }
    write = export_direct if direct else export_mace
    typer.echo(f"{out}: {write(model, kwargs, out, metadata)}")


if __name__ == "__main__":
    app()
