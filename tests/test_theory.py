"""The checks of `rootfree.theory` at small size, each with a broken variant that it must notice."""

import csv
import math
import sys
from pathlib import Path

import pytest
import torch

from rootfree.optim import RFRMSProp
from rootfree.theory import fisher, invariance, preconditioners, quadratics
from rootfree.theory.measured import Measured, classifier, normal

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import theory as script


def values(rows: list[Measured], *words: str, quantity: str = "") -> list[float]:
    """The values of the rows whose setting holds all these words."""
    found = [row.value for row in rows if all(word in row.setting for word in words) and quantity in row.quantity]
    assert found, (words, [row.setting for row in rows])
    return found


@pytest.mark.parametrize(
    ("value", "error", "expected", "agrees"),
    [
        (1.0, None, "", None),
        (1.05, None, "1 ± 0.1", True),
        (1.2, None, "1 ± 0.1", False),
        (1.2, 0.05, "1 ± 0.1", True),
        (-0.5, None, "-0.5 ± 0", True),
        (1.2, 0.05, "> 1", True),
        (1.1, 0.05, "> 1", False),
        (-1.2, 0.05, "< -1", True),
        (-1.1, 0.05, "< -1", False),
        (math.nan, None, "0 ± 1", False),
        (math.inf, None, "< 1", False),
    ],
)
def test_a_row_agrees_by_the_stated_rule(value, error, expected, agrees):
    assert Measured("C0", "check", "setting", "quantity", value, error, expected).agrees is agrees


# C11


def test_rescaled_losses_show_in_the_exponents_and_a_kept_batch_size_is_noticed(monkeypatch):
    rows = invariance.loss_rescaling(steps=3)
    assert [row.value for row in rows] == [-1, 0, 0, 0.5]
    assert all(row.agrees for row in rows)

    class Deaf(RFRMSProp):  # does not know the curvature of the rescaled loss
        def __init__(self, params, **hyper):
            super().__init__(params, **{**hyper, "batch_size": 64})

    monkeypatch.setattr(invariance, "RFRMSProp", Deaf)
    assert [row.agrees for row in invariance.loss_rescaling(steps=3)] == [True, True, False, False]


def test_only_root_free_methods_are_equivariant():
    rows = invariance.reparameterisation(steps=3)
    assert all(row.agrees for row in rows)
    assert set(values(rows, "p=1,", "full-matrix")) == {0}
    assert set(values(rows, "p=1,", "RFRMSProp", "diagonal map")) == {0}
    assert min(values(rows, "p=0.5") + values(rows, "p=0,") + values(rows, "p=1,", "RFRMSProp", "full map")) > 0.01


def test_equivariance_needs_damping_zero(monkeypatch):
    class Damped(RFRMSProp):
        def __init__(self, params, **hyper):
            super().__init__(params, **{**hyper, "damping": 1e-3})

    monkeypatch.setattr(invariance, "RFRMSProp", Damped)
    assert min(values(invariance.reparameterisation(3, powers=(1.0,)), "RFRMSProp", "diagonal map")) > 1e-5


# C12


def test_natural_steps_agree_to_first_order_with_either_exponent():
    rows = preconditioners.preconditioner_invariance(problems=3) + preconditioners.kronecker_invariance(problems=3)
    assert values(rows, "natural step") == pytest.approx([2] * 8, abs=0.05)
    assert values(rows, "moving average") + values(rows, "plain gradient") == pytest.approx([1] * 4, abs=0.2)
    assert all(row.agrees for row in rows if "natural" in row.setting and row.check == "preconditioner_invariance")


def test_a_factor_that_learns_at_twice_the_rate_is_noticed():
    def fast(P, U, h):
        return preconditioners.natural_factor(P, U, 2 * h)

    rows = preconditioners.preconditioner_invariance(problems=3, steps={"natural step, broken": fast})
    assert [row.value for row in rows] == pytest.approx([1, 1], abs=0.2)
    assert not rows[0].agrees


def test_the_natural_step_in_the_root_moves_s_towards_u():
    K, g = torch.eye(4) + 0.3 * normal(4, 4, seed=0), normal(4, seed=1)
    P, U, h = K @ K.mT, torch.outer(g, g) + torch.eye(4), 1e-6
    moved = (preconditioners.natural_root(P, U, h).inverse() - P.inverse()) / h
    torch.testing.assert_close(moved, U - P.inverse(), rtol=1e-4, atol=1e-4)


# C13


def test_the_joint_fisher_is_exact_under_sampled_labels_and_needs_its_factor():
    rows = fisher.joint_fisher(examples=3, batch_sizes=(1, 2, 3))
    assert all(row.agrees for row in rows)
    broken = fisher.joint_fisher(examples=3, batch_sizes=(1, 2, 3), factor=False)
    assert values(broken, quantity="N/B") == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-8)
    assert values(broken, "B=2", quantity="mean loss") == pytest.approx([0.5], abs=1e-8)


def test_the_fisher_is_minus_the_expected_hessian():
    logits, start = classifier(2, 2, 3)
    x = normal(4, 2, seed=70)

    def expected_loss(flat):
        return -(logits(start, x).softmax(-1) * logits(flat, x).log_softmax(-1)).sum()

    probabilities, jacobians, _ = fisher.softmax_model(4, 2, 3, 2)
    torch.testing.assert_close(fisher.fisher(probabilities, jacobians), torch.func.hessian(expected_loss)(start))


def test_sampling_agrees_within_its_error_and_notices_a_missing_factor():
    rows = fisher.joint_fisher_sampled(examples=8, draws=4000, batch_size=4)
    assert [row.agrees for row in rows if row.expected] == [True] * 3
    joint, minibatch, own = (row for row in rows if row.expected)
    assert own.error < joint.error < 0.1
    half = Measured("C13", "", "", "", minibatch.value / 2, minibatch.error / 2, minibatch.expected)  # without N/B
    assert not half.agrees


def test_labels_of_another_model_bias_the_joint_fisher_more_with_more_data():
    rows = fisher.empirical_bias(examples=(8, 32))
    assert all(row.agrees for row in rows)
    few, many = values(rows, "joint")
    assert many > 2 * few
    assert max(values(rows, "per-sample")) < few


# Noisy quadratics


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5, 1.0])
def test_the_noisy_quadratic_takes_the_steps_of_rf_rmsprop(power):
    h, starts = torch.tensor([1.0, 0.1]).double(), normal(3, 2, seed=1)
    hyper = {"beta2": 0.9, "damping": 1e-3}
    losses = quadratics.noisy_quadratic(
        h, 0.05, power=power, noise=0.5, factor=4, steps=20, starts=starts, init=0.5, **hyper
    )
    param, generator = torch.nn.Parameter(starts.clone()), torch.Generator().manual_seed(83)
    optimizer = RFRMSProp([param], lr=0.05, batch_size=4, momentum=0, power=power, init=0.5, **hyper)
    for loss in losses:
        torch.testing.assert_close((0.5 * h * param.detach() ** 2).sum(-1), loss)
        xi = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        param.grad = h * param.detach() + 0.5 * h.sqrt() * xi
        optimizer.step()


def test_the_best_learning_rate_lies_at_the_vertex():
    lrs = quadratics.octaves(-4, 4, 2)
    losses = torch.stack([2 ** (lrs.log2() - best).square() for best in (-1.2, 0.0, 2.7)])
    assert quadratics.best_lr(lrs, losses).tolist() == pytest.approx([-1.2, 0, 2.7])
    losses[:, -5:] = math.inf
    assert quadratics.best_lr(lrs, losses)[:2].tolist() == pytest.approx([-1.2, 0])


def test_without_the_factor_the_best_learning_rate_falls_with_the_batch_size_where_noise_dominates():
    rows = quadratics.batch_size_factor((16, 64, 256), seeds=16, steps=200, groups=4, powers=(0.0, 1.0))
    assert all(row.agrees for row in rows if row.quantity == "k minus SGD's" and "near" in row.setting)
    (kept,) = values(rows, "factor B, near", "equal steps", quantity="SGD")
    (dropped,) = values(rows, "no factor, near", "equal steps", quantity="SGD")
    assert kept - dropped == pytest.approx(1, abs=0.25)
    assert values(rows, "factor B, far", "equal steps", quantity="SGD")[0] > 0.25  # there the factor is what shifts


def test_the_root_free_step_leaves_a_larger_error():
    rows = quadratics.stationary_error(seeds=8, steps=2400)
    assert all(row.agrees for row in rows if row.quantity == "ratio of stationary errors")
    for power, slope in (("p=1,", 1), ("p=0.5,", 2)):
        assert values(rows, power, "damping 1e-12", quantity="lr^k") == pytest.approx([slope], abs=0.1)
    assert min(values(rows, "damping 1e-12", quantity="ratio of stationary")) > 2
    assert max(values(rows, "damping 1e-", quantity="ratio of headrooms")) < 1  # equal on a grid of quarter octaves


def test_the_best_exponent_rises_for_a_fixed_preconditioner_alone():
    rows = quadratics.exponents((10.0, 1e-3), seeds=8, steps=300, groups=4)
    rises = {row.setting: row.agrees for row in rows if row.expected}
    assert rises == {"RF-RMSProp": False, "fixed h^-p": True}


def test_a_fixed_preconditioner_equals_simulation():
    h, lrs, powers = torch.tensor([1.0, 0.1]).double(), torch.tensor([0.05, 0.1]).double(), torch.tensor([0.5]).double()
    expected = quadratics.fixed_preconditioner(h, lrs, powers, 0.3, steps=30)[0]
    mu, generator = normal(40_000, 2, seed=2), torch.Generator().manual_seed(3)
    for _ in range(30):
        xi = torch.randn(40_000, 2, generator=generator, dtype=torch.float64)
        mu = mu - 0.1 * h**-0.5 * (h * mu + (0.3 * h).sqrt() * xi)
    assert ((h * mu**2).mean(0).sum() / h.sum()).item() == pytest.approx(expected[1].item(), rel=0.03)


# The table


def test_the_script_writes_the_same_bytes_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "CHECKS", (fisher.joint_fisher, preconditioners.preconditioner_invariance))
    texts = []
    for name in ("a.csv", "b.csv"):
        monkeypatch.setattr(sys, "argv", ["theory", "--into", str(tmp_path / name)])
        script.main()
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    rows = list(csv.DictReader(texts[0].splitlines()))
    assert tuple(rows[0]) == script.COLUMNS
    assert {row["agrees"] for row in rows} <= {"true", "false", ""}
    assert all((row["agrees"] == "") == (row["expected"] == "") for row in rows)
    assert "rows that state something agree" in capsys.readouterr().out


def test_the_script_names_the_checks_when_one_is_unknown(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["theory", "nonsense"])
    with pytest.raises(SystemExit, match="nonsense; there are exponents"):
        script.main()


def test_the_published_table_is_that_of_these_checks():
    rows = list(csv.DictReader(script.RESULTS.read_text().splitlines()))
    kept = [[row[column] for column in script.COLUMNS] for row in rows]
    quick = [*invariance.loss_rescaling(), *invariance.reparameterisation()]
    quick += [*fisher.joint_fisher(), *fisher.empirical_bias()]
    for row in quick:
        words = script.cells(row)
        same = [line for line in kept if line[:4] == words[:4]]
        assert len(same) == 1
        assert same[0][5:] == words[5:]
        assert float(same[0][4]) == pytest.approx(row.value, rel=1e-3)
