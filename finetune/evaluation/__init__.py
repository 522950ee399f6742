"""Measure a potential against labels."""
