"""What a run is: published ids still follow from published configs, and code of one's own is part of the id."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rootfree.run.identity import NUMERICS, own_source, run_id_of, scientific_config

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "results" / "runs.csv"


def config_of(row: dict[str, str]) -> dict[str, Any]:
    """The config of a published run, which has a column for each leaf; an empty cell is null, or not there."""
    config: dict[str, Any] = {}
    for column, text in row.items():
        if column.startswith("config.") and text:
            *path, leaf = column.removeprefix("config.").split(".")
            place = config
            for name in path:
                place = place.setdefault(name, {})
            place[leaf] = text if leaf == "fingerprint" else value_of(text)
    return config


def value_of(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_the_id_of_every_published_run_follows_from_its_config() -> None:
    """But for the searches of the first two hours, whose ids held how a block is called (results/LOG.md)."""
    with RUNS.open(newline="", encoding="utf-8") as file:
        rows = [
            row for row in csv.DictReader(file) if row["finished_at"] > "2026-11-24T10" or row["purpose"] == "final"
        ]
    assert len(rows) > 1000
    wrong = [row["run_id"] for row in rows if run_id_of({"numerics": NUMERICS, **config_of(row)}) != row["run_id"]]
    assert wrong == []


def test_code_of_ones_own_is_part_of_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    blocks = {key: {"_target_": "torch.optim.SGD"} for key in ("dataset", "model", "loss", "schedule", "trainer")}

    def run_id(module: str) -> str:
        config = {**blocks, "dataset": {"_target_": "rootfree.data.cluttered_digits.cluttered_digits"}, "seed": 0}
        return run_id_of(scientific_config({**config, "optimizer": {"_target_": f"{module}.Mine", "lr": 1}}, "pixels"))

    for name, body in {"first": "pass", "again": "pass", "other": "lr = 2"}.items():
        (tmp_path / f"{name}.py").write_text(f"class Mine:\n    {body}\n")
    assert len({own_source(f"{name}.Mine") for name in ("first", "again", "other")}) == 2
    assert run_id("first") != run_id("other")
    for installed in (
        "torch.optim.SGD",
        "timm.optim.Lion",
        "rootfree.optim.RFRMSProp",
        "torch.nn.functional.cross_entropy",
    ):
        assert own_source(installed) is None
