"""The one training loop, whatever is learned."""

import hashlib
import inspect
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rootfree import distributed
from rootfree.checkpoint import State
from rootfree.clock import Clock
from rootfree.data.splits import Batches, Splits
from rootfree.precision import forward_in, set_arithmetic
from rootfree.progress import EpochProgress
from rootfree.run.record import Record
from rootfree.run.signals import Interrupted, raise_if_stopped

Loss = Callable[[Tensor, Tensor], Tensor]


def fit(
    model: nn.Module,
    loss: Loss,
    optimizer: Callable[..., torch.optim.Optimizer],
    schedule: Callable[[float], float],
    data: Splits,
    record: Record,
    seed: int,
    device: torch.device,
    epochs: Annotated[int, Gt(0)],
    eval_batch_size: Annotated[int, Gt(0)] = 500,
    clean_size: Annotated[int, Gt(0)] = 2000,
    evaluate_test: bool = True,
    precision: Literal["float32", "bf16", "fp16"] = "float32",
    tf32: bool = False,
    deterministic: bool = False,
    compile: bool = False,
    accumulate: Annotated[int, Gt(0)] = 1,
    clip_norm: Annotated[float, Gt(0)] | None = None,
    ema_decay: Annotated[float, Ge(0), Lt(1)] | None = None,
    decay_norms_and_biases: bool = True,
) -> dict[str, Any]:
    """Train from where the record's checkpoint stands, or from the start, and return the summary.

    Args:
        model: maps inputs (B, ...) to logits (B, classes, ...); already on `device`.
        loss: maps (logits, targets) to a mean.
        optimizer: makes an optimizer of parameters or parameter groups; `schedule` scales its learning rates.
        schedule: maps progress in [0, 1) to a factor.
        data: the splits, with batch size and augmentation.
        record: where metrics and checkpoints go.
        seed: of shuffling and augmentation.
        device: where batches are made.
        epochs: passes over the training split.
        eval_batch_size: examples per batch without gradients.
        clean_size: training examples, a fixed draw, seen without augmentation to measure the generalisation gap.
        evaluate_test: look at the test split after the last epoch; a search never does.
        precision: of the forward pass, by autocast; weights, gradients and the optimizer keep theirs. fp16 scales the
            loss, and steps that overflow are skipped and counted.
        tf32: let a GPU multiply float32 numbers with 10 bits of mantissa.
        deterministic: refuse what does not repeat bit for bit on a GPU.
        compile: compile the model: a minute at the start, then faster steps.
        accumulate: chunks that a batch is divided into, each with a forward and backward pass of its own, to save
            memory; without batch statistics the step is the same.
        clip_norm: largest 2-norm of the whole gradient; null does not clip.
        ema_decay: evaluate an exponential moving average of the weights with this decay per step; null evaluates the
            weights.
        decay_norms_and_biases: weight decay for all parameters, as in the paper's released code; false spares vectors,
            scalars, and what the model names in `no_weight_decay()`, as timm's groups do.

    Returns:
        Status ("finished", or "diverged" when a loss was not finite) and the final metrics.
    """
    set_arithmetic(tf32, deterministic)
    shard = (distributed.rank(), distributed.world_size())
    world_size = shard[1]
    state = State(
        model,
        make_optimizer(optimizer, model, decay_norms_and_biases),
        torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        torch.Generator().manual_seed(seed),
        ema_decay,
    )
    learning_rates = [group["lr"] for group in state.optimizer.param_groups]
    train = data.batches(data.train, device, data.batch_size, state.generator, shard)
    fixed = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:clean_size]
    eval_batches = {
        name: data.batches(split, device, eval_batch_size, shard=shard)
        for name, split in {"train": data.train[fixed], "val": data.val, "test": data.test}.items()
    }
    compiled: Any = torch.compile(model) if compile else model
    forward = DistributedDataParallel(compiled) if world_size > 1 else compiled
    clock = Clock(device)
    if saved := record.load_checkpoint():
        state.load_state_dict(saved)

    progress = EpochProgress(record.title, epochs, len(train), state.epoch, record.quiet)
    with progress, saved_if_interrupted(record, state):
        for epoch in range(state.epoch, epochs):
            # train: no number is read from the device before the epoch's end
            state.begin_epoch(len(train))
            started = time.perf_counter() - state.epoch_seconds
            rest = clock.each(islice(train, state.index, None), "data")
            for index, (inputs, targets) in enumerate(rest, start=state.index):
                factor = float(schedule((epoch * len(train) + index) / (epochs * len(train))))
                for group, learning_rate in zip(state.optimizer.param_groups, learning_rates, strict=True):
                    group["lr"] = learning_rate * factor
                state.optimizer.zero_grad()
                whole = min(data.batch_size, train.size - index * data.batch_size)  # of all processes
                chunks = list(zip(inputs.chunk(accumulate), targets.chunk(accumulate), strict=True))
                for number, (chunk, chunk_targets) in enumerate(chunks, start=1):
                    more = world_size > 1 and number < len(chunks)  # processes exchange gradients after the last chunk
                    with forward.no_sync() if more else nullcontext():
                        with forward_in(precision, device):
                            chunk_loss = loss(forward(chunk), chunk_targets)
                        state.scaler.scale(chunk_loss * (len(chunk) * world_size / whole)).backward()
                    state.loss_sum = state.loss_sum + chunk_loss.detach() * len(chunk)
                state.scaler.unscale_(state.optimizer)
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
                state.diagnostics.watch(len(train) - index)
                with clock.part("optimizer"):
                    state.scaler.step(state.optimizer)  # optimizer.step(), unless the gradients overflowed in fp16
                state.end_step(index, time.perf_counter() - started)
                raise_if_stopped()
                record.save_if_due(state.state_dict)
                progress.advance()
            running_loss = distributed.all_reduce_sum(state.loss_sum).item() / train.size
            state.epoch_seconds = time.perf_counter() - started

            # evaluate: clean training examples and val
            metrics: dict[str, Any] = {"epoch": epoch + 1, "step": (epoch + 1) * len(train)}
            metrics |= {"lr": state.optimizer.param_groups[0]["lr"], "loss": running_loss}
            distributed.broadcast_buffers(model)
            state.begin_evaluation()
            with forward_in(precision, device):
                for name in ("train", "val"):
                    found = evaluate(state.eval_model(compiled), loss, eval_batches[name], len(data.classes))
                    metrics |= {f"{name}_acc": found.acc, f"{name}_loss": found.loss}
            metrics |= {"val_balanced_acc": found.balanced_acc, "val_predicted_classes": found.predicted}
            metrics["gap_acc"] = metrics["train_acc"] - metrics["val_acc"]
            metrics["images_per_second"] = train.size / state.epoch_seconds
            metrics["seconds"] = state.seconds + state.epoch_seconds
            metrics |= {f"{name}_ms": 1e3 * spent / len(train) for name, spent in clock.read().items()}
            metrics |= state.diagnostics.read()
            state.end_epoch(metrics)
            record.log(metrics)
            progress.end_epoch(metrics)
            losses = [metrics[key] for key in ("loss", "train_loss", "val_loss")]
            if not all(map(math.isfinite, losses)) or not all(p.isfinite().all() for p in model.parameters()):
                return _summary("diverged", state, train.size)
            record.save_checkpoint(state.state_dict())

        if evaluate_test:
            with forward_in(precision, device):
                found = evaluate(state.eval_model(compiled), loss, eval_batches["test"], len(data.classes))
            state.metrics |= {f"test_{name}": getattr(found, name) for name in ("acc", "loss", "balanced_acc")}
        if state.metrics.get("val_predicted_classes") == 1 and record.is_main_process:
            share = f"its accuracy of {state.metrics['val_acc']:.2%} is the share of that class"
            print(f"warning: {record.title}: on the validation split the model predicts one class alone, so {share}",
                  file=sys.stderr, flush=True)  # fmt: skip
        record.save_weights(state.eval_model(model).state_dict())
    return _summary("finished", state, train.size)


@contextmanager
def saved_if_interrupted(record: Record, state: State) -> Iterator[None]:
    """Keep the state of a run that is asked to stop, wherever it is."""
    try:
        yield
    except Interrupted:
        record.save_checkpoint(state.state_dict())
        raise


class Evaluation(NamedTuple):
    """What a model does on a split: accuracies (fractions), the mean loss, and how many classes it ever predicts."""

    acc: float
    loss: float
    balanced_acc: float  # the mean over the classes of the split of the accuracy in each
    predicted: int


@torch.no_grad()
def evaluate(model: nn.Module, loss: Loss, batches: Batches, classes: int) -> Evaluation:
    """Look at a split, in eval mode; batch statistics stay as they are."""
    model.eval()
    loss_sum = torch.zeros((), device=batches.device)
    labelled, right, predicted = (torch.zeros(classes, dtype=torch.long, device=batches.device) for _ in range(3))
    for inputs, targets in batches:
        raise_if_stopped()
        if len(targets):  # a process may have no part of the last batch
            logits = model(inputs)
            found, wanted = logits.argmax(1).flatten(), targets.flatten()
            labelled.index_add_(0, wanted, torch.ones_like(wanted))
            right.index_add_(0, wanted, (found == wanted).long())
            predicted.index_add_(0, found, torch.ones_like(found))
            loss_sum = loss_sum + loss(logits, targets) * len(targets)
    counts = distributed.all_reduce_sum(torch.stack([labelled, right, predicted])).cpu()
    there = counts[0] > 0
    return Evaluation(
        acc=counts[1].sum().item() / counts[0].sum().item(),
        loss=distributed.all_reduce_sum(loss_sum).item() / batches.size,
        balanced_acc=(counts[1, there] / counts[0, there]).mean().item(),
        predicted=int((counts[2] > 0).sum()),
    )


def make_optimizer(
    factory: Callable[..., torch.optim.Optimizer], model: nn.Module, decay_norms_and_biases: bool
) -> torch.optim.Optimizer:
    """Call a factory with the model's parameters, or with their names, too, if it takes `named_parameters` alone.

    Raises:
        ValueError: the latter, and weight decay is to be left out for some, which such a factory decides by itself.
    """
    takes = inspect.signature(factory).parameters
    if "named_parameters" in takes and "params" not in takes:
        if not decay_norms_and_biases:
            raise ValueError("trainer.decay_norms_and_biases = False is not allowed: the optimizer takes named "
                             "parameters, and divides them into groups itself")  # fmt: skip
        return factory(named_parameters=list(model.named_parameters()))
    return factory(model.parameters() if decay_norms_and_biases else groups_without_decay(model))


def groups_without_decay(model: nn.Module) -> list[dict[str, Any]]:
    """Divide parameters as timm does: no weight decay for vectors, scalars and what `model.no_weight_decay()` names."""
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    named = list(model.named_parameters())
    decayed = [param for name, param in named if param.ndim > 1 and name not in spared]
    rest = [param for name, param in named if param.ndim <= 1 or name in spared]
    return [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]


def _summary(status: str, run: State, trained_on: int) -> dict[str, Any]:
    """The run's result: final metrics, and the gap between clean training examples and test (null without test)."""
    params = [param for group in run.optimizer.param_groups for param in group["params"]]
    states = [run.optimizer.state.get(param, {}) for param in params]  # some keep other things beside them
    values = [value for state in states for value in state.values()]
    tensors = [item for value in values for item in (value if isinstance(value, list) else [value])]
    final = {"test_acc": None, "test_loss": None, "test_balanced_acc": None, **run.metrics}
    tested = final["test_acc"] is not None
    return {
        "status": status,
        "epochs": final["epoch"],
        "steps": final["step"],
        "skipped_steps": run.skipped,
        "seconds": final["seconds"],
        "images_per_second": final["epoch"] * trained_on / final["seconds"],
        **{f"{name}_acc": final[f"{name}_acc"] for name in ("train", "val", "test")},
        **{f"{name}_loss": final[f"{name}_loss"] for name in ("train", "val", "test")},
        **{name: final.get(name) for name in ("val_balanced_acc", "test_balanced_acc", "val_predicted_classes")},
        "gap_acc": final["train_acc"] - final["test_acc"] if tested else None,
        "gap_loss": final["train_loss"] - final["test_loss"] if tested else None,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "weights": _hash(run.model),
        "state_bytes": sum(t.nbytes for t in tensors if isinstance(t, Tensor) and t.dim() > 0),
        "failed_roots": sum(state.get("failures", 0) for state in states),  # Shampoo counts them
        "peak_memory_bytes": _peak_memory(),
    }


def _hash(model: nn.Module) -> str:
    """Hash of all parameters and buffers: two runs that end alike bit for bit share it."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()[:16]


def _peak_memory() -> int:
    """Most bytes this process ever held: on the GPU if it used one, else in main memory, earlier runs included."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the GPU if there is one. A device that is not there is an error."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device = {name!r} does not work here: {str(error).splitlines()[0]}") from error
    return torch.device(name)
