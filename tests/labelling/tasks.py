"""Molecules to compute, without a cell."""

from finetune.labelling.task import Task

WATER = [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.05, -0.75, -0.5]]
EMPTY = [[0.0] * 3] * 3


def task(numbers: list[int], positions: list[list[float]], spin: int = 1, charge: int = 0) -> Task:
    return Task(numbers, positions, EMPTY, [False] * 3, charge, spin)


WATER_TASK = task([8, 1, 1], WATER)
