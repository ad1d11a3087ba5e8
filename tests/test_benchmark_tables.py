"""The documentation's tables are what benchmarks/tables.py makes of the results, and the roofline's table is complete."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import bars
import pytest
import roofline
import tables

ROOT = Path(__file__).parents[1]


def test_tables_and_charts_are_current(capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


@pytest.fixture
def pages(tmp_path) -> Path:
    """A copy of the pages and charts."""
    for name in (*tables.PAGES, *tables.charts()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_changed_number_is_noticed_and_mended(pages, capsys):
    readme = pages / "README.md"
    text = readme.read_text()
    readme.write_text(text.replace("against faiss IndexFlatL2 |", "against faiss IndexFlatL2 | 9", 1))
    (pages / "docs" / "speed.png").write_bytes(b"another")
    assert tables.main(["--check"], pages) == 1
    assert capsys.readouterr().out.split(":")[0] == "README.md" and "docs/speed.png" in tables.stale(pages)
    assert tables.main([], pages) == 0 and tables.stale(pages) == [] and readme.read_text() == text


def test_unknown_marks_are_refused():
    with pytest.raises(
        ValueError,
        match="tables: expected one of bars, main_bars, cpu, gpu, roofline, stages, dropins; got 'speed'; correct the mark",
    ):
        tables.filled("<!-- results: speed -->\n<!-- /results -->")


def test_every_bar_shows_missed_ones_with_their_reason(monkeypatch):
    table = tables.bars_table().splitlines()
    assert len(table) == len(bars.BARS) + 2
    missed = [bar for bar in bars.BARS if bars.holds(bar) is False]
    assert all(bar.why for bar in missed), [bar.what for bar in missed if not bar.why]
    high = bars.Bar("one", 5, ("cpu-epyc.json",), ("bench_search[64]", "faiss_over_ours"), why="because")
    absent = bars.Bar("two", 5, ("cpu-epyc.json", "none.json"), ("nothing", "here"))
    monkeypatch.setattr(tables, "BARS", (high, absent))
    first, second = tables.bars_table().splitlines()[2:]
    assert first.endswith("**no**: because | cpu-epyc.json |") and re.search(r"\| \d\.\d+x \|", first)
    assert second == "| two | 5x | - | not measured | - |"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(2.72, "x", "2.72x"), (0.93, "%", "93 %"), (12.6, "MB", "12.6 MB"), (100.0, "", "100"), (0.0123, "x", "0.012x")],
)
def test_quantities(value, unit, text):
    assert tables.quantity(value, unit) == text


def test_roofline_of_one_op(tmp_path, capsys):
    """Compiles for three architectures; no GPU is needed."""
    pytest.importorskip("triton")
    roofline.main(["--op", "simvq_loss", "-o", str(tmp_path)])
    rows = json.loads((tmp_path / "roofline.json").read_text())["rows"]
    assert [row["kernel"] for row in rows] == ["forward", "backward", "backward rotation"]
    for row in rows:
        assert list(row["chips"]) == roofline.CARDS
        for chip in row["chips"].values():
            assert chip["estimate_us"] >= max(chip["bytes_us"], chip["arithmetic_us"]) > 0
        assert row["chips"]["H200"]["bytes_us"] == pytest.approx(row["bytes"] / 4.8e12 * 1e6)
    assert capsys.readouterr().out == (tmp_path / "roofline.md").read_text() + "\n"


def test_measured_times_are_kept(tmp_path):
    """A card's times stay until it is measured again."""
    pytest.importorskip("triton")
    row = {"op": "simvq_loss", "kernel": "forward", "measured_us": {"H200": 31.5}}
    (tmp_path / "roofline.json").write_text(json.dumps({"rows": [row]}))
    roofline.main(["--op", "simvq_loss", "-o", str(tmp_path)])
    rows = json.loads((tmp_path / "roofline.json").read_text())["rows"]
    assert rows[0]["measured_us"] == {"H200": 31.5} and "est. 21 / **32**" in (tmp_path / "roofline.md").read_text()


def test_the_whole_roofline_is_in_the_results():
    rows = bars.results("roofline.json")
    kernels = {source.op: 0 for source in roofline.report.compilables()}
    for row in rows.values():
        kernels[row["op"]] = kernels.get(row["op"], 0) + 1
        assert list(row["chips"]) == roofline.CARDS
    assert all(kernels.values()) and "log_mel" in kernels
    assert rows["log_mel n_fft 2048"]["measured_us"]["H100"] > rows["log_mel n_fft 2048"]["chips"]["H100"]["bytes_us"]


def test_device_needs_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(roofline.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        roofline.main(["--device", "-o", str(tmp_path)])
    assert "--device: expected a CUDA GPU; none is here" in capsys.readouterr().err
