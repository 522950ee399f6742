"""``python -m finetune`` is the ``piwsl-finetune`` command."""

from finetune.commands import app

app(prog_name="piwsl-finetune")
