"""``python cli.py …`` from a checkout is the ``piwsl-finetune`` command."""

from finetune.commands import app

if __name__ == "__main__":
    app(prog_name="piwsl-finetune")
