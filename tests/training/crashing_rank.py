"""Run a recipe in this process, one of several, of which one crashes: RECIPE RANK."""

import os
import sys

import torch

import finetune
from finetune.training.optimisers.optimiser import GradientDescent

torch.set_num_threads(1)
if os.environ["RANK"] == sys.argv[2]:

    def crash(self: GradientDescent, *given: object) -> object:
        raise RuntimeError("this rank has had enough")

    GradientDescent.step = crash  # type: ignore[assignment]
finetune.run(sys.argv[1])
