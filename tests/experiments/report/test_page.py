"""The page of a set of runs: it needs nothing beside itself, leads only to what is there, and repeats a run."""

import base64
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from experiments.config.stored import config_of
from experiments.report import command as report
from tests.experiments import killing

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "link", "br", "path", "use", "rect", "image"}


class _Page(html.parser.HTMLParser):
    """What a page holds: its ids, where it leads, the cells of its tables; and that its elements close."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.rows, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[name] for name in ("href", "src", "xlink:href") if name in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    """A population of two, one run that stopped, one that cannot be read, and one whose name has marks in it."""
    place = tmp_path_factory.mktemp("runs")
    shared = {"steps": 20, "checkpoint_every": 0}
    killing.run(killing.make_config(data_dir, population=2, sparsities=(0.8, 0.95), **shared), place / "rigl")
    killing.run(killing.make_config(data_dir, "dense", seed=3, **shared), place / 'dense <i>&"')
    stopped = json.loads((place / "rigl" / "config.json").read_text()) | {
        "population": 0,
        "sparsities": [],
        "seed": 5,
    }
    (place / "stopped").mkdir()
    (place / "stopped" / "config.json").write_text(json.dumps(stopped))
    (place / "stopped" / "metrics.jsonl").write_text('{"step": 10, "loss": 2.0, "test_accuracy": 0.2}\n')
    (place / "broken").mkdir()
    (place / "broken" / "config.json").write_text('{"steps":')
    return place


@pytest.fixture(scope="module")
def text(runs, tmp_path_factory):
    """The page of all of them."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert report.main([str(runs), "--html", str(path)]) == 0
    return path.read_text()


def test_it_needs_nothing_beside_itself(text):
    page = _Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith(("#", "data:application/json;base64,")), link
        assert not link.startswith("#") or link[1:] in page.ids
    # What an SVG is, is said by a name that looks like an address; nothing else does.
    assert set(re.findall(r"https?://[^\"' )]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert {found[1:] for found in re.findall(r"url\((#[\w-]+)\)", text)} <= set(page.ids)
    assert "default-src 'none'" in text


def test_the_tables_say_what_the_runs_left(text, runs):
    rows = _Page(text).rows
    result = json.loads((runs / "rigl" / "result.json").read_text())
    found = {row[0]: row for row in rows if row and row[0].startswith("seed_")}
    assert len(found) == 4
    for index, member in enumerate(result["members"]):
        name = f"seed_{member['seed']}-sparsity_{member['sparsity']:g}-rate_0.01"
        assert f"{result['metrics']['test_accuracy'][index]:.4f}" in found[name]
        assert f"{result['sparsity'][index]:.4f}" in found[name]
        assert f"{result['nonzero'][index]:,d}" in found[name]
        assert f"{result['training_flops']['relative'][index]:.3f}" in found[name]
    states = {row[0]: row[1] for row in rows if len(row) > 1}
    assert states['dense <i>&"'] == "finished"
    assert states["stopped"] == "partial at 10/20"
    assert states["broken"] == "unreadable at 0/0"
    means = [row[2] for row in rows if row[:2] == ["rigl", "0.8"]]
    accuracy = result["metrics"]["test_accuracy"][:2]
    assert means[0].startswith(f"{np.mean(accuracy):.4f} ± ")


def test_every_finished_run_has_its_figures(text):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert sum("while training" in one and "accuracy and sparsity" in one for one in captions) == 5
    assert text.count("<svg ") == len(captions)
    assert any("over the sparsity that was reached" in one for one in captions)
    # The page's own colours, in both schemes.
    assert "currentColor" in text
    assert "#24292f" not in text.partition("<main>")[2]


def test_the_configuration_of_the_page_repeats_the_run(text, runs, tmp_path):
    stored = [json.loads(base64.b64decode(one)) for one in re.findall(r"json;base64,([\w+/=]+)", text)]
    config = next(one for one in stored if one["method"] == "dense")
    assert "--config=configs/from_json.py:config.json --workdir=runs/rigl</pre>" in text
    killing.run(config_of(config), tmp_path / "again")
    name = 'dense <i>&"'
    assert (tmp_path / "again" / "params.npz").read_bytes() == (runs / name / "params.npz").read_bytes()


def test_runs_that_are_not_finished_make_a_page_without_figures(runs, tmp_path):
    assert report.main([str(runs / "stopped"), "--html", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "No run is finished." in text
    assert "<svg" not in text


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, capsys):
    assert report.main([str(tmp_path), "--html", str(tmp_path / "absent" / "page.html")]) == 2
    assert "its directory does not exist" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_click_sorts_by_the_numbers(text, tmp_path):
    click = """<script>
    const head = [...document.querySelectorAll("#runs thead th")].find((one) => one.textContent === "test_accuracy");
    head.querySelector("button").click();
    const rows = [...document.querySelectorAll("#runs tbody tr")];
    document.title = rows.map((row) => row.cells[head.cellIndex].textContent);
    </script>"""
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{click}</body>"))
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{tmp_path}/page.html"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    cells = re.search("<title>(.*?)</title>", done.stdout)[1].split(",")
    *numbers, last = cells
    assert last == "–"
    assert [float(cell) for cell in numbers] == sorted(float(cell) for cell in numbers)
    assert 'aria-sort="ascending"' in done.stdout
