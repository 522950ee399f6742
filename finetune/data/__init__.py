"""Structures and their labels: read from files, checked, split, turned into graph batches."""
