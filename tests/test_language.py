"""Text: what is cut from it, what is predicted, and what is refused."""

import json
import math
from pathlib import Path

import pytest
import torch

from rootfree import train
from rootfree.analysis.claims import Claims
from rootfree.analysis.collect import collect
from rootfree.analysis.grouping import studies
from rootfree.analysis.sections import results
from rootfree.analysis.tables import read
from rootfree.data.language import UNKNOWN, definitions, text_folder
from rootfree.models.gpt import GPT
from rootfree.models.lstm import LSTM
from rootfree.trainer import evaluate

VERSE = "the quick brown fox jumps over the lazy dog\n" * 60


@pytest.fixture
def verses(tmp_path: Path) -> Path:
    """2,640 characters in two files, of which the last holds two that no other part has."""
    (tmp_path / "verses/more").mkdir(parents=True)
    (tmp_path / "verses/a.txt").write_text(VERSE[:2000], encoding="utf-8")
    (tmp_path / "verses/more/b.txt").write_text(VERSE[2000:-2] + "é#", encoding="utf-8")
    return tmp_path / "verses"


def test_each_target_is_the_character_that_follows_and_parts_share_none(verses: Path) -> None:
    data = text_folder(str(verses), "verses", context=16)
    text = ["".join(data.classes[i] for i in split.inputs.flatten()) for split in (data.train, data.val)]
    assert VERSE.startswith(text[0])
    assert VERSE[2640 - 2 * 264 :].startswith(text[1])
    assert torch.equal(data.train.targets.flatten()[:-1], data.train.inputs.flatten()[1:])
    assert (len(data.train), len(data.val)) == ((2640 - 2 * 264 - 1) // 16, 263 // 16)
    assert data.for_model == {"vocab_size": 29, "context": 16}  # letters, space, line's end, unknown
    shuffled = torch.cat([x for x, _ in data.batches(data.train, torch.device("cpu"), 5, torch.Generator())])
    assert not torch.equal(shuffled, data.train.inputs)
    assert torch.equal(shuffled.unique(dim=0), data.train.inputs.unique(dim=0))


def test_characters_that_training_lacks_are_one_symbol_and_counted(verses: Path) -> None:
    data = text_folder(str(verses), "verses", context=16, held_out=0.1)
    assert data.classes[-1] == UNKNOWN
    assert data.unknown == (0, 2)
    assert data.description.endswith("symbols, 2 characters of test are none of them")


def test_definitions_are_as_hard_to_guess_as_is_known() -> None:
    """Bits per character of test, from counts of training: 4.33 by itself, 3.52 after the one before."""
    data = definitions()
    size = len(data.classes)
    assert (size, UNKNOWN in data.classes, data.for_model["context"]) == (78, True, 64)
    pairs = lambda split: split.inputs.flatten() * size + split.targets.flatten()  # noqa: E731
    counts = torch.bincount(pairs(data.train), minlength=size**2).view(size, size).double() + 0.1
    single = -(counts.sum(0) / counts.sum()).log2()[data.test.targets].mean().item()
    double = -(counts / counts.sum(1, keepdim=True)).log2().flatten()[pairs(data.test)].mean().item()
    assert (single, double) == (pytest.approx(4.33, abs=0.01), pytest.approx(3.52, abs=0.01))


@pytest.mark.parametrize("model", [LSTM, GPT])
def test_what_comes_later_is_not_seen_and_accuracy_counts_characters(
    model: type[torch.nn.Module], verses: Path
) -> None:
    torch.manual_seed(0)
    data, net = text_folder(str(verses), "verses", context=16), model(vocab_size=29, context=16)
    inputs, targets = data.val.inputs, data.val.targets
    changed = inputs.clone()
    changed[:, 9:] = 3
    assert torch.allclose(net(inputs)[:, :, :9], net(changed)[:, :, :9], atol=1e-6)
    assert not torch.allclose(net(inputs)[:, :, 9:], net(changed)[:, :, 9:], atol=1e-3)
    found = evaluate(net, torch.nn.functional.cross_entropy, data.batches(data.val, torch.device("cpu"), 5), 29)
    logits = net(inputs)
    assert found.acc == (logits.argmax(1) == targets).double().mean().item()
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)
    torch.nn.functional.cross_entropy(logits, targets).backward()
    assert all(param.grad is not None and param.grad.abs().sum() > 0 for param in net.parameters())


def run(monkeypatch: pytest.MonkeyPatch, root: Path, *words: str) -> None:
    monkeypatch.chdir(root.parent)
    own = ["dataset=text_folder", f"dataset.root={root}", "dataset.name=verses", "dataset.context=16", "model=lstm",
           "wandb.mode=disabled", "trainer.epochs=3", *words]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["rootfree.train", *own])
    train.main()


def test_a_run_learns_text(verses: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["model.width=64", "model.depth=1", "dataset.batch_size=4", "optimizer=adamw", "optimizer.lr=0.01"]
    run(monkeypatch, verses, *words)
    (summary,) = [json.loads(file.read_text()) for file in verses.parent.glob("outputs/*/summary.json")]
    assert summary["status"] == "finished"
    assert summary["val_acc"] > 0.25  # the most frequent character is a space: 0.18

    collect(verses.parent / "outputs", verses.parent / "tables")
    (study,) = studies(*read(verses.parent / "tables"))
    shown = results(study, Claims(claims=[], questions=[]))
    assert shown["bits per character"].tolist() == [f"{summary['test_loss'] / math.log(2):.3f}"]
    (gap,) = study.finished(*study.arms, "gap_bits")
    assert gap == pytest.approx(summary["gap_loss"] / math.log(2))


def test_leftovers_are_passed_over_and_what_else_is_not_read_is_counted(
    verses: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = text_folder(str(verses), "verses", context=16)
    for name in (".ipynb_checkpoints/a.txt", "__MACOSX/._a.txt", "notes.md", "more/table.CSV"):
        (verses / name).parent.mkdir(exist_ok=True)
        (verses / name).write_bytes(b"\xff")
    (verses / "more/b.txt").rename(verses / "more/b.TXT")
    assert text_folder(str(verses), "verses", context=16).fingerprint == clean.fingerprint
    assert capsys.readouterr().out == f"{verses}: not read: 1 .csv, 1 .md\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["dataset.context=300"],
            "dataset.context = 300 is not allowed: val of verses has 264 characters, so it is 263",
        ),
        (["dataset.root=/nowhere"], "dataset.root = /nowhere is not a folder: give one that holds text files, *.txt"),
        (["dataset.root=empty"], "dataset.root = empty has no text: no file below it ends in .txt"),
        (["dataset.root=latin"], "a.txt (byte 3), "),
        (["model=gpt_mini", "model.heads=3"], "model.width = 128 is not a multiple of model.heads = 3"),
        (
            ["model=resnet8"],
            "rootfree.models.resnet.resnet8 does not take what verses tells a model: vocab_size, context",
        ),
    ],
)
def test_bad_input_is_named(
    verses: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (verses.parent / "empty").mkdir()
    (verses.parent / "latin").mkdir()
    for name in "ab":
        (verses.parent / f"latin/{name}.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, verses, *words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
