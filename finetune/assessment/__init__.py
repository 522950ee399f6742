"""Measure potentials after training: on labels, in dynamics, by physical checks."""

from __future__ import annotations

from finetune.assessment.dynamics import md
from finetune.assessment.errors import evaluate
from finetune.assessment.page import report
from finetune.assessment.physics import scan

__all__ = ["evaluate", "md", "report", "scan"]
