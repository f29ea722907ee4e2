"""Temporary: today's verdicts in the words of the coming ones."""
from typing import Any, NamedTuple
import numpy as np
from types import SimpleNamespace
from rootfree.analysis import verdicts as v
from rootfree.analysis.checks import Check

class F(NamedTuple):
    part: Any; margin: float; kind: str; estimate: float; low: float; high: float; n: int; planned: int; p: float
    adjusted: float; direction: str; size: str; verdict: str; low_searches: float; high_searches: float; note: str; arms: Any

class J(NamedTuple):
    claim: Any; study: Any; place: Any; verdict: str; reason: str; premise: Any; findings: Any; counts: bool

class C:
    def __init__(self, c):
        self.__dict__.update(c.__dict__); self.short = c.statement[:45] + "?"; self.origin = {"P": "ours", "C": "paper"}[c.id[0]]

def new(x): return x if x in ("supported", "refuted", "premise not met", "no data") else "undecided"

def f(x):
    i = x.outcome.interval
    check = isinstance(x.part, Check)
    k = "exact" if check else x.part.kind
    d = "ahead" if i.low > 0 else "behind" if i.high < 0 else "not resolved"
    s = "larger" if i.low > x.margin else "smaller" if i.high < x.margin else "unclear"
    w = (i.high - i.low) * 0.3
    return F(x.part, x.margin, k, i.mean, i.low, i.high, i.n, 0 if check else x.part.seeds, x.outcome.p, x.adjusted, d, s, new(x.verdict), i.low - w, i.high + w, x.note, x.arms)

def scorecard(claims, studies, tables={}):
    return [J(C(j.claim), j.study, j.place, new(j.verdict), "direction clear, size not", j.premise and f(j.premise), [f(x) for x in j.findings], j.counts) for j in v.scorecard(claims, studies, tables)]

def questions(claims):
    from rootfree.analysis.claims import Question
    qs = {"On CNNs, does it keep up with SGD?": "C1 C6 C7 C8 C9 C10 C15 P5", "On transformers, does it keep up with AdamW?": "C2", "On other networks?": "C3", "Are matrix methods without roots good and cheap?": "C4 C5 C14 C16", "What does half precision do?": "P1 P2 P4", "Does the theory hold?": "C11 C12 C13 P3"}
    return claims._replace(questions=[Question(t, c.split(), []) for t, c in qs.items()])
