"""Measure a potential: errors on labels, molecular dynamics, physical scans, the report."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "calibration": "Calibration Quantity table",
        "dynamics": "md",
        "evaluation": "Comparison compare evaluate",
        "plots": "FAINT learning_curve write_png",
        "report_page": "Page report template write_report",
        "scans": "scan",
        "trajectory": "Limits Settings",
    },
)
