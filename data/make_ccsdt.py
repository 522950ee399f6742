"""Make the sparse coupled-cluster sets of ``data/ccsdt``.

    python data/make_ccsdt.py sample            # GFN2-xTB geometries
    python data/make_ccsdt.py label             # CCSD(T) and PBE0 labels; resumable
    python data/make_ccsdt.py write             # extended XYZ from the labels at hand
    python data/make_ccsdt.py check             # sanity checks of the written files

Geometries and labels wait in ``--work`` and every finished label is kept there, so that a
stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from ccsdt_check import check_all
from ccsdt_label import STAGES, label_atoms, label_stage
from ccsdt_sample import sample
from ccsdt_systems import SYSTEMS
from ccsdt_write import write_all

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("sample", "label", "write", "check"))
    parser.add_argument("--molecule", nargs="+", choices=tuple(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--stage", nargs="+", choices=tuple(STAGES), default=list(STAGES))
    parser.add_argument("--limit", type=int, help="label only the first frames of each split")
    parser.add_argument("--minutes", type=float, help="stop labelling after so many minutes")
    parser.add_argument(
        "--derivatives", type=int, default=0, help="frames to check by finite differences"
    )
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "ccsdt")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "ccsdt")
    return parser.parse_args()


def main() -> None:
    """Run one command."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    systems = [SYSTEMS[name] for name in arguments.molecule]
    if arguments.command == "sample":
        for system in systems:
            sample(system, arguments.work)
    elif arguments.command == "label":
        deadline = None
        if arguments.minutes is not None:
            deadline = time.time() + 60.0 * arguments.minutes
        label_atoms(arguments.work)
        for name in arguments.stage:
            for stage in STAGES[name]:
                for system in systems:
                    label_stage(system, arguments.work, stage, arguments.limit, deadline)
    elif arguments.command == "write":
        write_all(arguments.work, arguments.out)
    else:
        check_all(arguments.out, systems, arguments.derivatives)


if __name__ == "__main__":
    main()
