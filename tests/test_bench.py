"""What the benchmarks share: rows, bounds, and a table in which newer rows replace older ones of the same machine."""

import runpy
from pathlib import Path

import pandas as pd
import pytest

from rootfree.bench import Measurement, compared, keeps_bound, publish, row


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (row("a", 1.0, "s", bound="<= 2"), True),
        (row("a", 3.0, "s", bound="<= 2"), False),
        (row("a", 3.0, "s", "b", 1.0, ">= 2"), True),
        (row("a", 3.0, "s", "b", 2.0, ">= 2"), False),
        (row("a", 3.0, "s"), True),
        ({"ratio": 1.3, "bound": 1.2}, False),
        ({"ratio": None, "bound": 1.2}, False),
    ],
    ids=["value below", "value above", "ratio above", "ratio below", "no bound", "bare ratio", "not measured"],
)
def test_a_bound_is_of_the_ratio_or_else_of_the_value(found: Measurement, kept: bool) -> None:
    assert keeps_bound(found) == kept


def test_the_ratio_is_the_median_of_the_rounds_own() -> None:
    found = compared("a", [(1.0, 1.0), (4.0, 2.0), (90.0, 10.0)], "s", "b")
    assert (found["value"], found["peer_value"], found["ratio"], found["note"]) == (4, 2, 2, "3 rounds")


def test_newer_rows_replace_those_of_the_same_machine(tmp_path: Path) -> None:
    file = tmp_path / "results" / "bench.csv"
    publish([row("a", 1.0, "s"), row("b", 2.0, "s", "c", 4.0)], file, "one")
    publish([row("a", 3.0, "s")], file, "two")
    publish([row("a", 5.0, "s")], file, "one")
    table = pd.read_csv(file)
    assert table[["what", "device", "value"]].values.tolist() == [["a", "one", 5], ["b", "one", 2], ["a", "two", 3]]
    assert table["ratio"].tolist()[1] == 0.5


def test_the_cpu_half_of_the_gpu_check_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, file = Path(__file__).parent.parent / "scripts" / "gpu_check.py", tmp_path / "gpu.csv"
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--device", "cpu", "--output", str(file)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0  # all bounds are kept
    assert capsys.readouterr().out.startswith("gpu-check: no GPU here")
    table = pd.read_csv(file).set_index("what")["value"]
    assert table.filter(like="IFShampoo, float32").item() < 1e-4
    assert table.filter(like="resumed").tolist() == table.filter(like="stochastic rounding").tolist() == [0]
