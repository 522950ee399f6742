"""Hand a potential on: ASE calculators, files of other programs, switching of adapters."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "calculator": "CommitteeCalculator PotentialCalculator load_calculator separated split",
        "formats": "check_plain export write_file",
        "switching": "AdaptedFoundation",
    },
)
