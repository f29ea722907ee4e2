"""What `theory.csv` and `bench.csv` say about a claim: rows that agree with it, or values within bounds."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, model_validator

MADE_BY = {"theory": "make theory", "bench": "make bench"}
TRUE = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
ALIKE = ["parameters", "device", "threads"]  # rows of `bench.csv` that are alike in these are compared


class Strict(BaseModel):
    """A block of `claims.yaml`: unknown keys and other types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Check(Strict):
    """Rows of a table, chosen by their columns, and what is asked of each.

    Without `column` each row says itself whether it `agrees`. With it, its value, divided by that of the rows
    `against`, is to be `above` one bound and `below` another, or to be `rising` from row to row.
    """

    text: str
    kind: Literal["exact"]
    table: Literal["theory", "bench"]
    rows: dict[str, str | float | bool | list[str | float]]
    reason: str
    against: dict[str, str] | None = None
    column: str | None = None
    above: float | None = None
    below: float | None = None
    rising: bool = False
    said_of: Literal["gpu"] | None = None  # the hardware that the statement is about, where it is about one

    @model_validator(mode="after")
    def _complete(self) -> "Check":
        asked = self.above is not None or self.below is not None or self.rising
        if (self.column is not None) != asked:
            raise ValueError("needs column with above, below or rising, or none of them")
        return self


def evaluate(check: Check, tables: Mapping[str, pd.DataFrame]) -> tuple[int, int, str]:
    """How many rows agree, of how many, and in words what they say."""
    table = tables.get(check.table)
    if table is None:
        return 0, 0, f"there is no {check.table}.csv: {MADE_BY[check.table]}"
    rows = select(table, check.rows)
    if check.column is None:
        said = [TRUE[str(value).lower()] for value in rows.get("agrees", []) if str(value).lower() in TRUE]
        if not said:
            return 0, 0, f"{len(rows)} rows of {check.table}.csv only measure" if len(rows) else _no_row(check)
        return sum(said), len(said), f"{sum(said)} of {len(said)} rows of {check.table}.csv agree"
    values = _values(check, table, rows)
    if len(values) < 1 + check.rising:
        return 0, 0, _no_row(check)
    if check.rising:
        steps = values.diff().dropna()
        agreeing, n = int((steps > 0).sum()), len(steps)
    else:
        low = -np.inf if check.above is None else check.above
        high = np.inf if check.below is None else check.below
        agreeing, n = int(((values > low) & (values < high)).sum()), len(values)
    ratio = f"{check.column}{' ratio' if check.against else ''}"
    listed = ", ".join(f"{place} {value:.3g}" for place, value in values.items())
    devices = ", ".join(sorted(set(rows["device"].dropna().astype(str)))) if "device" in rows else ""
    return agreeing, n, f"{agreeing} of {n}: {ratio} {listed}{f'; {devices}' if devices else ''}"


def elsewhere(check: Check, tables: Mapping[str, pd.DataFrame]) -> str:
    """A sentence where a statement about GPUs is decided by measurements of CPUs, which are named with their cores."""
    table = tables.get(check.table)
    if check.said_of is None or table is None:
        return ""
    devices = sorted(set(select(table, check.rows)["device"].dropna().astype(str)))
    if not devices or not all(device.endswith("cores)") for device in devices):
        return ""
    return f"Said of a {check.said_of.upper()}, decided on a CPU: {', '.join(devices)}."


def select(table: pd.DataFrame, rows: Mapping[str, Any]) -> pd.DataFrame:
    """The rows whose columns have these values, or one of them; a listed order is kept."""
    for column, allowed in rows.items():
        wanted = [str(value) for value in (allowed if isinstance(allowed, list) else [allowed])]
        text = table[column].astype(str) if column in table else pd.Series("", index=table.index)
        table = table[text.isin(wanted)]
        if isinstance(allowed, list):
            table = table.iloc[text[table.index].map(wanted.index).argsort(kind="stable").to_numpy()]
    return table


def _values(check: Check, table: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """The values asked for, named by their place: one per row, or per pair of rows that are `ALIKE`."""
    assert check.column is not None
    name = "parameters" if "parameters" in table else "setting"
    if check.column not in table or rows.empty:
        return pd.Series(dtype=float)
    if check.against is None:
        return rows.set_index(name)[check.column].astype(float).dropna()
    keys = [key for key in ALIKE if key in table]
    means = [part.groupby(keys, sort=False)[check.column].median() for part in (rows, select(table, check.against))]
    ratios = (means[0] / means[1].reindex(means[0].index)).dropna()
    return ratios.reset_index().set_index(name)[check.column].astype(float)


def _no_row(check: Check) -> str:
    wanted = ", ".join(f"{key} {value}" for key, value in check.rows.items())
    return f"{check.table}.csv has no row with {wanted}"
