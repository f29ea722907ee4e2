"""What every optimizer of `configs/optimizer/` promises to code that is not ours: found by listing the folder."""

import copy
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs/optimizer").glob("*.yaml"))}
if not hasattr(torch.optim, "Muon"):  # torch 2.9 has it
    del CONFIGS["muon"]
TARGETS = {name: str(OmegaConf.load(path)["_target_"]) for name, path in CONFIGS.items()}
SHIPPED = [name for name, target in TARGETS.items() if target.startswith(("rootfree.", "torch."))]  # or a user's
OURS = [name for name, path in CONFIGS.items() if re.search(r"rootfree\.optim\.(?!ByShape)", path.read_text())]
CLASSES = ["rf_rmsprop", "rf_adamw", "shampoo", "rf_shampoo", "if_shampoo"]  # a config of each of our classes
COORDINATES = ["rf_rmsprop", "rf_adamw"]  # those that can take a part of a parameter
every_optimizer = pytest.mark.parametrize("name", CONFIGS)
every_optimizer_of_ours = pytest.mark.parametrize("name", OURS)
every_class = pytest.mark.parametrize("name", CLASSES)

# A low-precision arm may freeze, which it says at construction; that it does is tested with the diagonal optimizers.
pytestmark = pytest.mark.filterwarnings("ignore:beta2 = .* freezes:UserWarning")


def settings(name):
    """The keyword arguments of a yaml, for batches of 16."""
    config = OmegaConf.create({"dataset": {"batch_size": 16}, "optimizer": OmegaConf.load(CONFIGS[name])})
    return OmegaConf.to_container(config.optimizer, resolve=True)


def build(name, params, **changes):
    optimizer = instantiate(settings(name) | changes, _convert_="all")(params)
    getattr(optimizer, "train", lambda: None)()  # schedule-free methods ask for it
    return optimizer


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(5, 4), (4,), (), (3, 2, 2, 2)]]


def set_gradients(params, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


def train(optimizer, params, steps):
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def tensors(value):
    """All tensors within a state."""
    if isinstance(value, torch.Tensor):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for child in children for tensor in tensors(child)]


def same(left, right):
    """Equal bit for bit, in dtype too."""
    pairs = zip(tensors(left), tensors(right), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_there_are_optimizers():
    assert {"sgd", "adamw", "rf_rmsprop"} <= set(CONFIGS)


@every_optimizer
def test_lowers_a_quadratic_and_repeats_bit_for_bit(name):
    ends = []
    for _ in range(2):
        params = parameters()
        optimizer = build(name, params)
        start = sum(param.square().sum() for param in params).item()
        for _ in range(30):
            optimizer.zero_grad()
            loss = sum(param.square().sum() for param in params)
            loss.backward()
            optimizer.step()
        assert loss.item() < start
        ends.append(params)
    assert same(*ends)


@every_optimizer
def test_never_writes_a_gradient_and_returns_the_loss_of_a_closure(name):
    params = parameters()
    optimizer = build(name, params)

    def closure():
        assert torch.is_grad_enabled()
        set_gradients(params, 0)
        return torch.tensor(3.0)

    assert optimizer.step(closure) == 3.0
    expected = parameters()
    set_gradients(expected, 0)
    assert same([param.grad for param in params], [param.grad for param in expected])


@every_optimizer
def test_a_parameter_without_gradient_stays_and_has_no_state(name):
    params = parameters()
    optimizer = build(name, params)
    optimizer.step()  # no gradient at all
    set_gradients(params, 0)
    params[1].grad = None
    optimizer.step()
    assert torch.equal(params[1], parameters()[1])
    assert params[1] not in optimizer.state
    assert not any(torch.equal(a, b) for i, (a, b) in enumerate(zip(params, parameters(), strict=True)) if i != 1)


@every_optimizer
def test_saved_loaded_and_copied_it_goes_on_bit_for_bit(name, tmp_path):
    params = parameters()
    optimizer = build(name, params)
    train(optimizer, params, range(5))

    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    loaded_params = copy.deepcopy(params)
    loaded = build(name, loaded_params)
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(loaded.state_dict()["state"], optimizer.state_dict()["state"])

    copied_params = copy.deepcopy(params)
    copied = build(name, copied_params)
    copied.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    others = [(loaded, loaded_params), (copied, copied_params)]
    if name in SHIPPED:  # the whole object, with its parameters, as training code that keeps a spare does it
        twin_params, twin = copy.deepcopy((params, optimizer))
        others.append((twin, twin_params))

    train(optimizer, params, range(5, 12))
    for other, other_params in others:
        train(other, other_params, range(5, 12))
        assert same(other_params, params)
        assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


@every_optimizer
def test_groups_have_their_own_hyper_parameters_and_follow_a_scheduler(name):
    params = parameters()
    optimizer = build(name, [{"params": params[:2]}, {"params": params[2:], "lr": 0.0, "weight_decay": 0.0}])
    lr = optimizer.param_groups[0]["lr"]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for step in range(4):
        train(optimizer, params, [step])
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == lr / 16
    assert same(params[2:], parameters()[2:]) or name not in SHIPPED  # schedule-free ones average
    assert not any(torch.equal(a, b) for a, b in zip(params[:2], parameters()[:2], strict=True))

    if name not in SHIPPED:
        return
    frozen = copy.deepcopy(params)
    for group in optimizer.param_groups:  # a composition has more of them
        group.update(lr=0.0, weight_decay=0.0)
    train(optimizer, params, [9])
    assert same(params, frozen)


@every_optimizer_of_ours
def test_memory_layout_does_not_matter(name):
    ends = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        params = parameters()
        params[3].data = params[3].data.to(memory_format=memory_format)
        optimizer = build(name, params)
        train(optimizer, params, range(5))
        ends.append([param.detach().contiguous() for param in params])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*ends, strict=True))


@every_optimizer_of_ours
def test_keeps_everything_in_its_state_and_plain_values_in_its_groups(name):
    params = parameters()
    optimizer = build(name, params)
    train(optimizer, params, range(3))
    assert set(vars(optimizer)) == set(vars(torch.optim.SGD(parameters(), lr=0.1, foreach=False)))
    for value in optimizer.param_groups[0].values():
        assert isinstance(value, (int, float, str, tuple, list, type(None)))
    dtype = getattr(torch, settings(name).get("state_dtype") or "float32")
    assert {tensor.dtype for tensor in tensors(optimizer.state_dict()["state"]) if tensor.is_floating_point()} == {
        dtype
    }


@every_optimizer_of_ours
def test_non_finite_gradients_are_not_hidden(name):
    params = parameters()
    optimizer = build(name, params)
    train(optimizer, params, range(2))
    set_gradients(params, 2)
    params[0].grad[1, 1] = torch.nan
    optimizer.step()
    assert params[0].isnan().any()
    assert not any(param.isnan().any() for param in params[1:])


@every_optimizer_of_ours
def test_sparse_and_complex_gradients_are_refused(name):
    embedding = torch.nn.Embedding(4, 3, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match="sparse"):
        build(name, embedding.parameters()).step()
    param = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match="complex"):
        build(name, [param]).step()


@every_optimizer_of_ours
def test_hyper_parameters_out_of_range_are_refused_by_name(name):
    numbers = {key: value for key, value in settings(name).items() if type(value) in (int, float)}
    assert "lr" in numbers
    for key in numbers:
        for bad in (-1.0, float("nan"), float("inf"), "1", True):
            with pytest.raises(ValueError, match=f"{key} = .* is not allowed"):
                build(name, parameters(), **{key: bad})


@every_class
def test_schedules_of_torch_drive_it_and_copies_of_it_go_on_bit_for_bit(name):
    params = parameters()
    optimizer = build(name, params)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=12)
    (group,) = optimizer.param_groups
    seen = []
    for step in range(6):
        seen.append((group["lr"], group["momentum"] if "momentum" in group else group["betas"]))
        train(optimizer, params, [step])
        cycle.step()
    assert [len(set(column)) for column in zip(*seen, strict=True)] == [6, 6]
    copies = copy.deepcopy((params, optimizer)), pickle.loads(pickle.dumps((params, optimizer)))
    train(optimizer, params, range(6, 10))
    for others, other in copies:
        train(other, others, range(6, 10))
        assert same(others, params)
        assert same(other.state_dict()["state"], optimizer.state_dict()["state"])

    lr = group["lr"]
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    for _ in range(3):
        plateau.step(1.0)
    assert group["lr"] == lr / 2
    network = torch.nn.ParameterList(params)
    average, ends = torch.optim.swa_utils.AveragedModel(network), []
    annealing = torch.optim.swa_utils.SWALR(optimizer, swa_lr=lr / 8, anneal_epochs=2)
    for step in range(10, 13):
        train(optimizer, params, [step])
        annealing.step()
        average.update_parameters(network)
        ends.append([param.detach().clone() for param in params])
    assert group["lr"] == pytest.approx(lr / 8)
    for mean, column in zip(average.module, zip(*ends, strict=True), strict=True):
        torch.testing.assert_close(mean.detach(), sum(column) / 3)


@every_class
def test_a_group_that_is_added_later_trains_as_by_itself_and_changes_no_other(name):
    params = parameters()
    optimizer = build(name, params[:2])
    train(optimizer, params, range(3))
    optimizer.add_param_group({"params": params[2:], "weight_decay": 0.0})
    train(optimizer, params, range(3, 6))
    apart = parameters()
    for part, steps, changes in (slice(2), range(6), {}), (slice(2, 4), range(3, 6), {"weight_decay": 0.0}):
        train(build(name, apart[part], **changes), apart, steps)
    assert same(apart, params)


# Foreign code


def model(seed=0):
    timm = pytest.importorskip("timm")  # here, since the processes of a pair import this file, too

    torch.manual_seed(seed)
    sizes = dict(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=4)
    return timm.models.VisionTransformer(**sizes)


def batch(step, size=16):
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(4, (size,), generator=generator)
    images = torch.randn(size, 3, 8, 8, generator=generator) + labels[:, None, None, None]
    return images, labels


@every_optimizer
def test_trains_a_timm_model_in_foreign_code(name):
    """Learning-rate schedule, gradient accumulation, clipping and bfloat16 autocast, as users write them."""
    network = model()
    optimizer = build(name, network.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        losses.append(0.0)
        for images, labels in zip(*(half.chunk(2) for half in batch(step=0)), strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = cross_entropy(network(images), labels) / 2
            loss.backward()
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert min(losses[13:]) < losses[0]  # a loss may jump up, on one processor and not on another: torch's RMSprop does


def layers(seed):
    """A network that is made in no time, in float64."""
    torch.manual_seed(seed)
    nn = torch.nn
    return nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1), nn.GELU(), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 4)).double()


def can_shard():
    return hasattr(torch.cpu.Stream, "record_event")  # older torch does not on a CPU


def take_steps(network, optimizer, rank=None, steps=range(3)):
    """Train on batches, or on one half of each."""
    for step in steps:
        images, labels = (whole if rank is None else whole.chunk(2)[rank] for whole in batch(step))
        optimizer.zero_grad()
        cross_entropy(network(images.double()), labels).backward()
        optimizer.step()


def train_in_pair(rank, rendezvous, folder):
    """One of two processes that train every optimizer on half of each batch and save the parameters.

    In float64, where a gradient that is zero up to rounding stays far below every eps and damping.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    ends = {}
    for name in CONFIGS:
        network = DistributedDataParallel(layers(seed=rank))  # rank 0's parameters are broadcast
        take_steps(network, build(name, network.parameters()), rank)
        ends[name] = network.module.state_dict()
    for name in CLASSES:
        network = DistributedDataParallel(layers(seed=rank))
        hyper = settings(name)
        optimizer_class = get_class(hyper.pop("_target_"))
        del hyper["_partial_"]
        optimizer = ZeroRedundancyOptimizer(network.parameters(), optimizer_class, **hyper)
        take_steps(network, optimizer, rank)
        assert same(network.module.state_dict(), ends[name])
    for name in COORDINATES if can_shard() else ():
        from torch.distributed.fsdp import fully_shard

        network = fully_shard(layers(seed=0), mesh=dist.init_device_mesh("cpu", (2,)))
        optimizer = build(name, network.parameters())
        take_steps(network, optimizer)
        ends[f"{name} in shards"] = {key: value.full_tensor() for key, value in network.state_dict().items()}
        checkpoint.save(get_optimizer_state_dict(network, optimizer), checkpoint_id=folder / name)
    torch.save(ends, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_pair_of_processes_equals_one_and_its_sharded_state_goes_on_in_one(tmp_path):
    torch.multiprocessing.spawn(train_in_pair, (tmp_path / "rendezvous", tmp_path), nprocs=2)
    left, right = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in CONFIGS:
        assert same(left[name], right[name]), name
        network = layers(seed=0)
        optimizer = build(name, network.parameters())
        take_steps(network, optimizer)
        for key, value in network.state_dict().items():
            torch.testing.assert_close(left[name][key], value, rtol=1e-5, atol=1e-6, msg=f"{name}: {key}")
        if name in COORDINATES and can_shard():
            assert same(left[f"{name} in shards"], network.state_dict())  # both ranks had the whole batch
            heir = copy.deepcopy(network)
            its_optimizer = build(name, heir.parameters())
            state = get_optimizer_state_dict(heir, its_optimizer)
            checkpoint.load(state, checkpoint_id=tmp_path / name)
            set_optimizer_state_dict(heir, its_optimizer, state)
            assert same(its_optimizer.state_dict()["state"], optimizer.state_dict()["state"])
            for one, its in (network, optimizer), (heir, its_optimizer):
                take_steps(one, its, steps=[3])
            assert same(heir.state_dict(), network.state_dict())


def test_needs_torch_alone():
    """Importing `rootfree.optim` loads nothing that `import torch` and the standard library do not."""
    code = """
import sys, torch
before = set(sys.modules)
import rootfree.optim
loaded = {name for name in set(sys.modules) - before if name.split('.')[0] not in {*sys.stdlib_module_names, 'torch'}}
print(*(name for name in loaded if name != 'rootfree' and not name.startswith('rootfree.optim')))
"""
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
