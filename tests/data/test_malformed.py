"""Damaged files get one message that names the file; nothing is lost without a message."""

import re
from pathlib import Path

import pytest

from finetune.core.errors import FinetuneError
from finetune.data.reading import Reader
from tests.data.malformed import CASES, FRAMES, Case


def test_there_are_enough_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 200


@pytest.mark.filterwarnings("ignore")  # of ASE's parsers
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_gets_a_message_or_the_file_is_read(case: Case, tmp_path: Path) -> None:
    source = case.write(tmp_path)
    if not case.message:
        structures = list(Reader().read(source))
        assert len(structures) in (1, FRAMES)
        return
    with pytest.raises(FinetuneError) as error:
        list(Reader().read(source))
    message = str(error.value)
    assert re.search(case.message, message), message
    assert Path(source.partition("@")[0]).name in message
    assert message.rstrip().endswith((".", ")", "'", "?"))
    if case.intact is not None:
        reader = Reader(faulty="skip")
        assert len(reader.read(source)) == case.intact
        (record,) = reader.records
        assert len(record.left_out) == FRAMES - case.intact
        assert re.search(case.message, record.left_out[0])
        assert re.search(r"structure \d", record.left_out[0])
        assert "1 in all" in reader.notes()[0]
