"""Yaml has no compiler: every file composes, every leaf is taken, every choice of every preset is checked."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from rootfree import settings
from rootfree.trial import try_out

pytestmark = pytest.mark.filterwarnings("ignore:.*freezes a second moment")  # as released: that is an arm's point
ROOT = Path(__file__).parents[1]
GROUPS = ("dataset", "model", "loss", "optimizer", "schedule")
CHOICES = [(g, f.stem) for g in GROUPS for f in sorted((ROOT / "configs" / g).glob("*.yaml"))]
PRESETS = sorted(f for f in ROOT.glob("experiments/*/*.yaml") if f.parent.name != "search")
TUNED = [f for f in sorted(ROOT.glob("configs/tuned/*.yaml")) if f.stem != "none"]
RELEASED = [f for f in TUNED if "the paper's code" in f.read_text()]  # what test_recipes.py checks
PLACEBOS = [f for f in TUNED if "-rf_rmsprop_placebo" in f.stem]
PHOTOS = ["dataset.root=/photos", "dataset.name=photos"]
BUILT: set[str] = set()  # models that were built already
TEXT = ["dataset=definitions"]
NEEDS = {
    "image_folder": PHOTOS, "large_image_folder": PHOTOS, "gcvit_xxtiny": ["dataset=imagewoof"],  # not 32 pixels
    "gin": ["dataset=digit_graphs"], "digit_graphs": ["model=gin"], "nci1": ["model=gin"],
    "tu_graphs": ["dataset.root=/graphs", "dataset.name=MUTAG", "model=gin"],
    "lstm": TEXT, "lstm_mini": TEXT, "gpt_mini": TEXT, "definitions": ["model=lstm"], "shakespeare": ["model=gpt_mini"],
    "text_folder": ["dataset.root=/texts", "dataset.name=texts", "model=lstm"],
}  # fmt: skip


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=hydra)


def as_run(*overrides: str) -> settings.RunConfig:
    config = composed(*overrides, hydra=True)
    return settings.RunConfig.of(config, config.hydra, in_sweep=False)


def checked(*overrides: str) -> DictConfig:
    """Check a composed config, call its schedule, and build its model, each distinct one once, without memory."""
    run = as_run(*overrides)
    config = run.settings
    settings.check_settings([run])
    try_out(
        config,
        torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.Linear(2, 2)),
        len(config.loss.get("weight") or "ab"),
    )
    assert all(0 <= settings.build(config.schedule)(progress) <= 1 for progress in (0.0, 0.5, 1.0))
    told = told_to_models(config.dataset)
    if (model := f"{config.model} of {told}") not in BUILT:
        with torch.device("meta"):
            settings.build(config.model)(**told)
        BUILT.add(model)
    return config


def told_to_models(dataset: DictConfig) -> dict[str, int]:
    """What a data set would tell its models, without reading it."""
    module, _, function = dataset._target_.removeprefix("rootfree.data.").partition(".")
    if module == "language":
        return {"vocab_size": 78, "context": dataset.context}
    if module == "graphs":
        return {"num_classes": 10, "node_features": 3}
    return {"num_classes": 10, "image_size": {"tiny_imagenet": 64}.get(function, dataset.get("image_size", 32))}


def words_of(file: Path) -> list[str]:
    """The choices that a tuned file's name stands for: <dataset>-<model>-<optimizer>[-<loss>]."""
    return [f"{g}={n}" for g, n in zip(("dataset", "model", "optimizer", "loss"), file.stem.split("-"), strict=False)]


def cover(axes: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """As few cells of a grid as hold each of its values."""
    for i in range(max(map(len, axes), default=1)):
        yield [axis[i % len(axis)] for axis in axes]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_passes_the_check(group: str, name: str) -> None:
    checked(f"{group}={name}", *NEEDS.get(name, []))


def check_preset(preset: Path, cells: Callable[[list[list[str]]], Iterable[Sequence[str]]]) -> None:
    """Check those cells of a preset's grid; a seed changes no other setting."""
    content: Any = OmegaConf.to_container(OmegaConf.load(preset))
    choices = [choice for choice in content.get("defaults", []) if isinstance(choice, dict)]
    named = [(key.removeprefix("override /"), name) for choice in choices for key, name in choice.items()]
    if not all("${" in str(name) or is_ours(group, name) for group, name in named):
        pytest.skip("it needs a folder of one's own")
    word = f"+experiments/{preset.parent.name}={preset.stem}"
    grid: dict[str, Any] = composed(word, hydra=True).hydra.sweeper.params
    axes = [
        [f"{key}={value}" for value in values_of(f"{key}={values}") if is_ours(key, value)]
        for key, values in grid.items()
        if key != "seed"
    ]
    for cell in cells(axes):
        config = checked(word, *cell)
        kind, _, part = config.preset.partition("_")
        assert kind == preset.parent.name
        assert preset.stem == part or f"{preset.stem}_".startswith(f"{config.scale}_")
        assert config.cost, "a preset says what a run costs"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda f: f"{f.parent.name}={f.stem}")
def test_every_value_in_the_grid_of_every_preset_passes_the_check(preset: Path) -> None:
    check_preset(preset, cover)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS, ids=lambda f: f"{f.parent.name}={f.stem}")
def test_every_cell_of_every_preset_passes_the_check(preset: Path) -> None:
    check_preset(preset, lambda axes: product(*axes))


def is_ours(key: str, value: str) -> bool:
    """Not a choice from a folder of one's own, which --config-dir names."""
    return key not in GROUPS or (ROOT / "configs" / key / f"{value}.yaml").exists()


def values_of(override: str) -> list[str]:
    parsed = OverridesParser.create().parse_overrides([override])[0]
    return list(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else [str(parsed.value())]


@cache
def untuned(optimizer: str) -> Any:
    return OmegaConf.to_container(composed(optimizer, "tuned=none").optimizer, resolve=False)


@pytest.mark.parametrize("file", sorted({*TUNED} - {*RELEASED, *PLACEBOS}), ids=lambda f: f.stem)
def test_tuned_numbers_follow_the_choice(file: Path) -> None:
    words = words_of(file)
    assert OmegaConf.to_container(checked(*words).optimizer, resolve=False) != untuned(words[2])


def test_tuned_numbers_have_a_source() -> None:
    assert [file.stem for file in TUNED if "# source: " not in file.read_text()] == []


@pytest.mark.parametrize("file", PLACEBOS, ids=lambda f: f.stem)
def test_the_placebo_has_the_settings_of_sgd(file: Path) -> None:
    dataset, model, _, *loss = words_of(file)
    placebo = checked(dataset, model, *loss, "optimizer=rf_rmsprop_placebo").optimizer
    sgd = composed(dataset, model, *loss, "optimizer=sgd").optimizer
    assert [placebo[k] for k in ("lr", "momentum", "weight_decay")] == [
        sgd[k] for k in ("lr", "momentum", "weight_decay")
    ]
    assert 1 - placebo.beta2 == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.foo=1", "optimizer.foo = 1 is no argument of torch.optim"),
        ("trainer.seed=3", "trainer.seed = 3 is no argument of rootfree.trainer.fit"),
        ("+sede=1", "sede is no setting"),
        ("+experiments/nope=laptop", r"is no preset: .*\+experiments/cnn=gpu, .*laptop, "),
        ("optimizer.lr=-0.1", "optimizer.lr = -0.1 is not allowed"),
        ("optimizer.lr=fast", "optimizer.lr = 'fast' is not allowed: input should be a valid number"),
        ("optimizer.lr=.nan", "optimizer.lr"),
        ("optimizer.momentum=-1", "momentum"),
        ("trainer.epochs=0", "trainer.epochs = 0 is not allowed: input should be greater than 0"),
        ("trainer.epochs=2.5", "trainer.epochs = 2.5 is not allowed: input should be a valid integer"),
        ("schedule.milestones=[0.3,1.3]", r"schedule.milestones\[1\] = \[0.3, 1.3\] is not allowed"),
        ("loss.label_smoothing=7", "label_smoothing"),
        ("dataset=image_folder", "dataset.root is missing"),
        ("wandb.mode=maybe", "wandb.mode = 'maybe' is not allowed: input should be 'offline', 'online' or 'disabled'"),
        ("seed=-1", "seed = -1 is not allowed"),
        ("scale=huge", "scale = 'huge' is not allowed"),
        ("tuned=nonsense", "tuned=nonsense: there is no nonsense.yaml in "),
    ],
)
def test_a_wrong_setting_names_key_value_and_what_is_allowed(override: str, words: str) -> None:
    with pytest.raises(Exception, match=words) as error:
        checked(override)
    assert len(str(error.value)) < 900
