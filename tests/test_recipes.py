"""Schedules, losses and the paper's numbers: what was released is what our files say, converted by hand.

`released/winners.csv` and `released/ranges.csv` are copies of the tables of the released hyper-parameters; where the
fact sheet that they come from lies beside the repository, they are compared with it.
"""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from test_configs import RELEASED as TUNED
from test_configs import ROOT, checked, composed
from torch import Tensor

from rootfree.losses import rescaled_mse
from rootfree.schedules import constant, multistep, warmup_cosine, warmup_cosine_absolute

pytestmark = pytest.mark.filterwarnings("ignore:.*freezes a second moment")  # as released: that is an arm's point
RELEASED = Path(__file__).parent / "released"
FACTS = ROOT.parent / "shared" / "paper.md"
MODELS = {
    "ResNet34": "cifar100-resnet34", "DenseNet121": "cifar100-densenet121", "VGG16-BN": "cifar100-vgg16",
    "ResNet50 CE": "cifar100-resnet50", "ResNet50 MSE": "cifar100-resnet50", "Swin-T": "imagewoof-swin_tiny",
    "FocalNet": "imagewoof-focalnet_tiny", "GCViT": "imagewoof-gcvit_xxtiny", "GCViT-xxtiny": "imagewoof-gcvit_xxtiny",
}  # fmt: skip
METHODS = {
    "SGD": "sgd", "AdamW": "adamw", "RF": "rf_rmsprop", "RF-RMSProp": "rf_rmsprop", "Shampoo": "shampoo",
    "IF": "if_shampoo", "IF-Shampoo": "if_shampoo",
}  # fmt: skip
# what each column is called in an optimizer's settings
KEYS = {
    "sgd": {"lr": "lr", "momentum": "momentum", "weight_decay": "weight_decay"},
    "adamw": {"lr": "lr", "momentum": "betas.0", "lr_cov": "betas.1", "damping": "eps", "weight_decay": "weight_decay"},
    "rf_rmsprop": {"lr": "lr", "momentum": "momentum", "lr_cov": "beta2", "damping": "damping",
                   "weight_decay": "weight_decay"},
    "if_shampoo": {"lr": "lr", "momentum": "momentum", "lr_cov": "precond_lr", "damping": "damping",
                   "weight_decay": "weight_decay", "a2": "precond_momentum"},
}  # fmt: skip
KEYS["shampoo"] = KEYS["adamw"]
Row = dict[str, str]


def released(name: str) -> list[Row]:
    with (RELEASED / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def place(row: Row) -> tuple[str, str, str, str]:
    """The data set, model, optimizer and the ending of our file's name for a row."""
    dataset, model = MODELS[row["model"]].split("-")
    return dataset, model, METHODS[row["method"]], "-rescaled_mse" if row["model"].endswith("MSE") else ""


def label(row: Row) -> str:
    return f"{row['model']}-{row['method']}"


def arms_of(optimizer: str) -> list[str]:
    """The optimizers of ours that have its numbers."""
    return [optimizer, f"{optimizer}_bf16"] if optimizer in ("rf_rmsprop", "if_shampoo") else [optimizer]


def test_the_files_that_name_the_papers_code_are_those_of_its_winners() -> None:
    places = [place(row) for row in released("winners")]
    names = {f"{data}-{model}-{arm}{loss}" for data, model, optimizer, loss in places for arm in arms_of(optimizer)}
    assert {file.stem for file in TUNED} == names


@pytest.mark.parametrize("row", released("winners"), ids=label)
def test_winners_are_the_released_ones(row: Row) -> None:
    dataset, model, optimizer, ending = place(row)
    loss = ending.removeprefix("-") or "cross_entropy"
    for arm in arms_of(optimizer):
        settings = checked(f"dataset={dataset}", f"model={model}", f"optimizer={arm}", f"loss={loss}").optimizer
        for column, key in KEYS[optimizer].items():
            number = float(row[column])
            number = number / 4 if model == "swin_tiny" and column == "lr" else number
            number = 1 - number if key in ("beta2", "betas.1") else number
            assert OmegaConf.select(settings, key.replace(".0", "[0]").replace(".1", "[1]")) == pytest.approx(
                number, rel=1e-12
            ), (arm, key)
        assert settings.get("state_dtype") == {
            "rf_rmsprop_bf16": "bfloat16", "if_shampoo_bf16": "bfloat16",
            "shampoo": "float64" if model == "swin_tiny" else None,
        }.get(arm)  # fmt: skip
        assert settings.get("update_every", 2) == 2
    assert all(row[column] == "-" for column in ("lr_cov", "damping", "a2") if column not in KEYS[optimizer])


def test_there_are_thirty_winners_and_thirty_spaces() -> None:
    for name in ("winners", "ranges"):
        assert len({place(row) for row in released(name)}) == len(released(name)) == 30


@pytest.mark.parametrize("row", released("ranges"), ids=label)
def test_search_spaces_are_the_released_ones(row: Row) -> None:
    _, model, optimizer, ending = place(row)
    file = ROOT / "experiments" / "search" / f"{model}-{optimizer}{ending}.yaml"
    space: Any = OmegaConf.to_container(OmegaConf.load(file))
    winner = next(other for other in released("winners") if place(other) == place(row))
    outside = []
    for column, key in KEYS[optimizer].items():
        low, high = (float(end) for end in row[column].split(".."))
        if low > high:  # one released file: said in ours
            assert (label(row), column, "exchanged" in file.read_text()) == ("FocalNet-IF", "damping", True)
            low, high = high, low
        scale = 4 if model == "swin_tiny" and column == "lr" else 1
        spec = space.pop(f"optimizer.{key}")
        assert (spec.pop("low"), spec.pop("high")) == pytest.approx((low / scale, high / scale), rel=1e-12)
        assert spec == ({"one_minus": True} if key in ("beta2", "betas.1") else {})
        if not low <= float(winner[column]) <= high:
            outside.append(key)
    assert not space
    said = [line for line in file.read_text().splitlines() if "lies outside" in line]
    assert said == ([f"# The released winner lies outside: {', '.join(outside)}"] if outside else [])


@pytest.mark.skipif(not FACTS.exists(), reason="the fact sheet of the paper is not beside the repository")
@pytest.mark.parametrize(("name", "sections"), [("winners", ("5.1", "5.3")), ("ranges", ("5.2", "5.4"))],
                         ids=["winners", "ranges"])  # fmt: skip
def test_the_copies_are_the_fact_sheets(name: str, sections: tuple[str, ...]) -> None:
    rows = []
    for section in sections:
        lines = FACTS.read_text().split(f"### {section} ")[1].split("\n### ")[0].splitlines()
        cells = [[c.strip(" *") for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        rows += [[*row, "-"][:8] for row in cells[2:]]
    exchanged = {"file has min 1e-3 > max 1e-4": "1e-3..1e-4"}
    assert [list(row.values()) for row in released(name)] == [[exchanged.get(c, c) for c in row] for row in rows]


def test_the_loss_chooses_the_tuned_numbers() -> None:
    words = ["dataset=cifar100", "model=resnet50", "optimizer=sgd"]
    lr = lambda *more: composed(*words, *more).optimizer.lr  # noqa: E731
    plain = lr("tuned=none")
    assert len({plain, lr(), lr("loss=rescaled_mse")}) == 3
    assert lr("loss=rescaled_mse", "tuned=none") == plain
    assert lr("loss=rescaled_mse", "optimizer.lr=0.123") == 0.123
    other = composed("dataset=cifar100", "model=resnet34", "optimizer=sgd", "loss=rescaled_mse")  # nobody tuned it
    assert other.optimizer.lr == plain


@pytest.mark.parametrize(("model", "epochs", "drops"), [("resnet34", 210, (69, 139)), ("resnet50", 120, (39, 79))],
                         ids=["resnet34", "resnet50"])  # fmt: skip
@pytest.mark.parametrize("steps", [352, 391], ids=["val held out", "none held out"])  # steps of an epoch
def test_the_papers_drops_come_an_epoch_early(model: str, epochs: int, drops: tuple[int, int], steps: int) -> None:
    config = composed("+experiments/cnn=paper", f"model={model}")
    assert config.trainer.epochs == epochs
    milestones = tuple(config.schedule.milestones)
    factors = [multistep(step / (epochs * steps), milestones) for step in range(epochs * steps)]
    assert [factors.index(pytest.approx(f)) for f in (0.1, 0.01)] == [drop * steps for drop in drops]


@pytest.mark.parametrize(
    ("model", "epochs", "warmup", "cooldown", "start", "final", "drop_path"),
    [
        ("swin_tiny", 300, 30, 0, 1e-7 / 4, 1e-6 / 4, 0.2),
        ("focalnet_tiny", 300, 5, 0, 5e-7, 5e-6, 0.1),
        ("gcvit_xxtiny", 320, 20, 10, 1e-6, 5e-7, 0.2),
    ],
    ids=["swin_tiny", "focalnet_tiny", "gcvit_xxtiny"],
)
def test_vision_transformers_train_as_in_the_paper(
    model: str, epochs: int, warmup: int, cooldown: int, start: float, final: float, drop_path: float
) -> None:
    config = composed("+experiments/vit=paper", f"model={model}", "optimizer=rf_rmsprop_bf16")
    settings = {key: value for key, value in config.schedule.items() if not key.startswith("_")}
    lr = config.optimizer.lr
    at = lambda epoch: lr * warmup_cosine_absolute(epoch / epochs, **settings)  # noqa: E731
    assert (config.trainer.epochs, config.model.drop_path, config.loss.label_smoothing) == (epochs, drop_path, 0.1)
    assert [at(0), at(warmup / 2), at(warmup)] == pytest.approx([start, (start + lr) / 2, lr], rel=1e-6)
    middle = (warmup + epochs - cooldown) / 2
    assert [at(middle), at(epochs - cooldown), at(epochs)] == pytest.approx([(lr + final) / 2, final, final], rel=1e-6)
    data = config.dataset
    assert (data.image_size, data.batch_size, data.color_jitter, data.erasing) == (224, 128, 0.4, 0.25)
    assert (data.mixup, data.cutmix, data.rand_augment, data.flip) == (0, 0, None, True)


def test_schedules_are_functions_of_progress() -> None:
    assert constant(0.7) == 1
    steps = 948
    factors = [multistep(step / steps, (1 / 3, 2 / 3)) for step in range(steps)]
    assert [factors.index(pytest.approx(f)) for f in (1, 0.1, 0.01)] == [0, 316, 632]
    assert [warmup_cosine(p, warmup=0.2, final=0.1) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx(
        [0, 0.5, 1, 0.55, 0.1]
    )
    assert warmup_cosine(0, warmup=0.0) == 1
    assert [warmup_cosine(p, 0.2, 0.1, start=0.5, cooldown=0.4) for p in (0, 0.1, 0.2, 0.4, 0.6, 1)] == pytest.approx(
        [0.5, 0.75, 1, 0.55, 0.1, 0.1]
    )
    with pytest.raises(ValueError, match=r"warmup = 0\.5 and cooldown = 0\.5 leave no time"):
        warmup_cosine(0, warmup=0.5, cooldown=0.5)


def mse_by_hand(logits: Tensor, labels: Tensor, k: float, m: float) -> Tensor:
    """The squared loss as the paper's code has it: logits and targets scaled by sqrt(k) at the true class."""
    total = torch.zeros((), dtype=logits.dtype)
    for row, true in zip(logits, labels.tolist(), strict=True):
        for c, logit in enumerate(row):
            root = k**0.5 if c == true else 1.0
            total = total + (root * logit - (root * m if c == true else 0.0)) ** 2
    return total / logits.numel()


@pytest.mark.parametrize(("k", "m"), [(15.0, 30.0), (1.0, 1.0)], ids=["rescaled", "plain"])
def test_rescaled_mse_equals_a_loop(k: float, m: float) -> None:
    torch.manual_seed(0)
    logits, labels = 10 * torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.tensor([0, 4, 2, 2, 1, 3])
    value, expected = rescaled_mse(logits, labels, k, m), mse_by_hand(logits, labels, k, m)
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-13)
    assert rescaled_mse(m * torch.eye(5), torch.arange(5), k, m) == 0


def test_rescaled_mse_of_mixed_labels_is_the_mean_over_them() -> None:
    torch.manual_seed(0)
    logits, first, second = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([2, 1, 0, 1])
    mixed = 0.3 * torch.eye(3)[first] + 0.7 * torch.eye(3)[second]
    expected = 0.3 * rescaled_mse(logits, first) + 0.7 * rescaled_mse(logits, second)
    torch.testing.assert_close(rescaled_mse(logits, mixed), expected)


def test_rescaled_mse_computes_in_float32_at_least() -> None:
    logits, labels = torch.full((2, 3), 29.0, dtype=torch.bfloat16), torch.tensor([0, 1])
    assert rescaled_mse(logits, labels).dtype == torch.float32
    assert rescaled_mse(logits, labels).item() == pytest.approx((15 + 2 * 29**2) / 3)
