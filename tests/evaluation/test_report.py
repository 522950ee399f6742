"""What a report says in words, and what its page needs."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import finetune
from finetune.core.errors import RunFolderError
from finetune.evaluation.baseline import own_files
from finetune.evaluation.evaluation import Comparison
from finetune.evaluation.report_page import report, sentences, warnings
from finetune.evaluation.trajectory import Settings
from finetune.potentials.errors import LabelledPredictions, errors
from tests.conftest import recipe_for

NOTHING = np.zeros((2, 0))


def comparison(before: float, after: float) -> Comparison:
    found = [
        LabelledPredictions(NOTHING, np.zeros(0), np.array([[error] * 3, [0.0] * 3]), NOTHING)
        for error in (before, after)
    ]
    return Comparison("test", errors(found[1], 1), errors(found[0], 1), found[1], found[0])


def stability(held: int) -> dict[str, Any]:
    def row(name: str, survived: int) -> dict[str, Any]:
        return {
            "ensemble": "nvt",
            "temperature": 300.0,
            "potential": name,
            "survived": survived,
            "trajectories": 3,
            "stable_ps": survived / 3 * 5.0,
        }

    rows = [row("foundation", 2), row("fine-tuned", held)]
    return {"summary": rows, "length_ps": 5.0, "names": ["foundation", "fine-tuned"]}


def test_sentences_say_what_has_changed() -> None:
    (said,) = sentences(comparison(0.2, 0.1))
    assert said == "On the test set the force MAE fell from 200.0 to 100.0 meV/Å (-50 %)."
    assert sentences(comparison(0.2, 0.2)) == ["On the test set the force MAE stayed 200.0 meV/Å."]
    said = sentences(comparison(0.1, 0.2), stability(1))[-1]
    assert "1 of 3 trajectories of the fine-tuned potential held" in said
    assert "1.67 of 5 ps" in said


def test_warnings_are_given_where_the_foundation_was_better() -> None:
    assert warnings(comparison(0.2, 0.1), ["note: fine", "warning: beware"]) == ["beware"]
    (worse,) = warnings(comparison(0.1, 0.2), [])
    assert worse == "The force MAE on the test set is worse than the foundation's."
    assert warnings(comparison(0.2, 0.2), []) == []
    (diverged,) = warnings(comparison(0.2, float("nan")), [])
    assert "worse" in diverged
    assert "fails earlier" in warnings(comparison(0.2, 0.1), [], stability(1))[0]
    assert "some trajectories" in warnings(comparison(0.2, 0.1), [], stability(2))[0]
    assert warnings(comparison(0.2, 0.1), [], stability(3)) == []
    hole = {"name": "O-O", "kind": "dimer", "hole": 2.0, "hole_at": 0.4, "hole_behind": 3.0}
    scans = {
        "names": ["foundation", "fine-tuned"],
        "checks": [{**hole, "potential": name} for name in ("foundation", "fine-tuned")],
        "frequencies": [],
        "forgetting": {},
    }
    (said,) = warnings(comparison(0.2, 0.1), [], None, scans)
    assert (
        "O-O" in said and "collapses beyond a barrier of 3.00 eV: it has a hole of 2.00 eV" in said
    )
    assert "Of 1 repulsive walls of the fine-tuned potential, 1 has a hole." in sentences(
        comparison(0.2, 0.1), None, scans
    )


@pytest.fixture(scope="module")
def folder(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report") / "run"
    finetune.run(recipe_for(workspace, place, train={"epochs": 2}))
    return place


@pytest.mark.usefixtures("drawn")
def test_the_page_gathers_what_the_folder_holds(folder: Path, workspace: Path) -> None:
    first = (folder / "report.html").read_text()
    assert "Molecular dynamics" not in first
    settings = Settings(length=0.002, interval=0.5)
    finetune.md(folder, ensembles=("nvt",), replicas=1, settings=settings)
    away = workspace / "valid.xyz"
    finetune.scan(folder, only=("dimers", "forgetting"), elements=("H", "O"), away=away)
    assert report(folder) == folder / "report.html"
    page = (folder / "report.html").read_text()
    for text in (
        *("Molecular dynamics", "pairs of atoms", "Change against the foundation"),
        *("By element", "Worst forces", "On the test set the force MAE", "mace-torch"),
    ):
        assert text in page, text
    found = finetune.evaluate(folder, workspace / "test.xyz").groups()["fine-tuned"]["all"]["all"]
    for item in found.statistics.values():
        r2 = "–" if item.r2 is None else f"{item.r2:.4f}"
        cells = [*(f"{1000 * value:.2f}" for value in (item.mae, item.rmse, item.max)), r2]
        assert "".join(f"<td>{cell}</td>" for cell in ("fine-tuned", *cells)) in page
    assert "NVT 300 K" in page
    assert page.count("<svg") == 2 + 3
    for outside in ("src=", "href=", "@import", "url(http", "<script"):
        assert outside not in page.replace('xlink:href="#', "").replace("xlink:href", "")
    again = recipe_for(folder.parent, folder)
    with pytest.raises(RunFolderError, match="earlier run"):  # and not: other files
        finetune.run(again)


def test_without_its_test_file_the_page_shows_what_is_on_record(
    folder: Path, workspace: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    recipe = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(recipe.replace(str(workspace / "test.xyz"), "gone.xyz"))
    report(copy)
    page = (copy / "report.html").read_text()
    stored = json.loads((copy / "result.json").read_text())["test"]["finetuned"]["forces_mae"]
    assert f"{1000 * stored:.2f}" in page
    assert "Worst forces" not in page
    assert "errors on record, not measured again" in page and "gone.xyz" in page
    (copy / "result.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        report(copy)
    with pytest.raises(RunFolderError, match="no finished run"):
        report(tmp_path)


def test_files_are_found_where_the_run_was_started(
    folder: Path, workspace: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    recipe = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(recipe.replace(str(workspace / "test.xyz"), "test.xyz"))
    facts = json.loads((copy / "environment.json").read_text())
    assert facts["data"]["folders"] == [str(Path.cwd())]
    facts["data"]["folders"] += [str(workspace)]
    (copy / "environment.json").write_text(json.dumps(facts))
    page = report(copy).read_text()
    assert "Worst forces" in page and "on record" not in page
    assert own_files(copy, ["test.xyz@:2", "none.xyz"]) == [
        f"{workspace / 'test.xyz'}@:2",
        "none.xyz",
    ]
    assert own_files("tiny-xtb-hcno", "test.xyz") == ["test.xyz"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", "5\n", "line 1 is no mapping"),
        ("result.json", "5", "it has no mapping"),
        ("result.json", "{}", "'notes' is missing"),
        ("environment.json", "[]", "it has no mapping"),
        ("stability/stability.json", "5", "it has no mapping"),
        ("stability/stability.json", '{"names": 5}', "'names' is wrong"),
        ("scans/scans.json", '{"names": []}', "'checks' is missing"),
    ],
)
def test_a_damaged_file_is_named(
    name: str, content: str, message: str, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text(content)
    with pytest.raises(RunFolderError, match=f"{Path(name).name}' is damaged: {message}"):
        report(copy)


def test_damage_deep_within_a_file_is_no_traceback(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / "stability").mkdir(exist_ok=True)
    damaged = {"names": ["a"], "summary": [5], "length_ps": 1}
    (copy / "stability" / "stability.json").write_text(json.dumps(damaged))
    with pytest.raises(RunFolderError, match="is damaged \\(TypeError"):
        report(copy)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_is_light_or_dark_as_the_reader_wishes(folder: Path, tmp_path: Path) -> None:
    measure = (
        "<script>const style = element => getComputedStyle(element);"
        "document.title = style(document.body).color + ';' +"
        "style(document.querySelector('figure')).backgroundColor</script></body>"
    )
    page = (folder / "report.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("</body>", measure))
    found = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--blink-settings=preferredColorScheme={number}"]
        command += [f"--user-data-dir={tmp_path / scheme}", (tmp_path / "page.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        title = done.stdout.partition("<title>")[2].partition("</title>")[0]
        found[scheme] = title.split(";")
    white, black = "rgb(255, 255, 255)", "rgb(0, 0, 0)"
    assert found == {"dark": [white, white], "light": [black, white]}  # figures stay white


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_fits_a_phone_in_a_browser(folder: Path, tmp_path: Path) -> None:
    page = (folder / "report.html").read_text()
    measure = (
        "<script>document.title = [document.documentElement.scrollWidth, innerWidth,"
        "document.querySelectorAll('svg').length].join(' ')</script></body>"
    )
    frame = '<iframe src="page.html" width="390" height="800"></iframe>'
    told = "<script>onload = () => document.title = frames[0].document.title</script>"
    (tmp_path / "page.html").write_text(page.replace("</body>", measure))
    (tmp_path / "phone.html").write_text(f"<!doctype html><title></title>{frame}{told}")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    url = (tmp_path / "phone.html").as_uri()
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=120)
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    content, width, figures = map(int, title.split())
    assert width == 390
    assert content <= width
    assert figures >= 2
