import ctypes
import math
import pickle
import platform
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

from common.data.loading import make_loader
from common.errors import UserError
from common.settings import TrainerSettings
from common.training import schedules
from common.training import trainer as trainer_module
from common.training.checkpoints import load_weights, read_checkpoint, read_weights, save_checkpoint
from common.training.seeds import derive_seed, seed_all, step_generator
from common.training.trainer import fit, make_trainer, update_average


class Points(Dataset):
    """Forty random points with a target; items know their number."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(40, 6, generator=generator)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"input": self.inputs[index], "target": self.inputs[index, :1] * 2, "index": index}


class Regression(LightningModule):
    """A small network with dropout, augmentation, momentum and a schedule: all that has a state."""

    def __init__(self, seed):
        super().__init__()
        seed_all(seed)
        self.seed = seed
        self.network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.seen = []

    def training_step(self, batch, batch_index):
        noise = torch.randn(batch["input"].shape, generator=step_generator(self, self.seed, batch_index))
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        loss = (self.network(batch["input"] + 0.1 * noise) - batch["target"]).square().mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_index):
        self.log("loss", (self.network(batch["input"]) - batch["target"]).square().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedules.WarmupCosine(5, 30))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class PullThePlug(Callback):
    """Ends the training as abruptly as an exception can, at a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise ConnectionError("pulled")


def train(folder, settings=None, callbacks=(), seed=3, monitor=None):
    settings = settings or TrainerSettings(epochs=6, accelerator="cpu", measure_energy=False)
    module = Regression(seed)
    trainer = make_trainer(settings, folder, seed, monitor=monitor, mode="min", callbacks=callbacks)
    fit(trainer, module, make_loader(Points(), 8, shuffle_seed=seed), DataLoader(Points(), 20) if monitor else None)
    return module


def assert_equal_weights(first, second):
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("steps", [(2,), (5, 6, 29), (13, 17)])
def test_a_run_that_was_broken_off_and_resumed_ends_with_the_same_weights(tmp_path, steps):
    whole = train(tmp_path / "whole")
    for step in steps:
        with pytest.raises(ConnectionError):
            train(tmp_path / "broken", callbacks=[PullThePlug(step)])
    assert_equal_weights(whole, train(tmp_path / "broken"))
    columns = [
        np.genfromtxt(tmp_path / run / "metrics.csv", delimiter=",", names=True)[["epoch", "step", "lr", "train_loss"]]
        for run in ("whole", "broken")
    ]
    assert (columns[0] == columns[1]).all()


def test_a_resumed_run_with_validation_keeps_the_same_best_epoch(tmp_path):
    train(tmp_path / "whole", monitor="loss")
    with pytest.raises(ConnectionError):
        train(tmp_path / "broken", monitor="loss", callbacks=[PullThePlug(22)])
    train(tmp_path / "broken", monitor="loss")
    best = [read_checkpoint(tmp_path / run / "best.ckpt") for run in ("whole", "broken")]
    assert best[0]["epoch"] == best[1]["epoch"]
    for name, value in best[0]["state_dict"].items():
        assert torch.equal(value, best[1]["state_dict"][name])


def test_a_finished_run_is_not_trained_further(tmp_path):
    train(tmp_path)
    assert train(tmp_path).seen == []


def test_each_epoch_goes_through_all_clips_in_another_order(tmp_path):
    seen = train(tmp_path).seen
    orders = [[clip for when, clips in seen if when == epoch for clip in clips] for epoch in range(6)]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6


class FillEmptyTensors(Callback):
    """PyTorch's default with deterministic algorithms, which `make_trainer` switches off."""

    def on_train_start(self, *_):
        assert not torch.utils.deterministic.fill_uninitialized_memory
        torch.utils.deterministic.fill_uninitialized_memory = True

    def on_train_end(self, *_):
        torch.utils.deterministic.fill_uninitialized_memory = False


def test_empty_tensors_are_not_filled_and_the_weights_are_the_same(tmp_path):
    assert_equal_weights(train(tmp_path / "a"), train(tmp_path / "b", callbacks=[FillEmptyTensors()]))


def test_freed_memory_is_kept_where_there_is_glibc(monkeypatch):
    assert trainer_module.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # a C library without mallopt
    assert not trainer_module.keep_freed_memory()


def test_freed_memory_is_kept_unless_the_settings_say_no_and_the_weights_are_the_same(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(trainer_module, "keep_freed_memory", lambda: calls.append("kept"))
    settings = TrainerSettings(epochs=6, accelerator="cpu", measure_energy=False, keep_memory=False)
    without = train(tmp_path / "a", settings)
    assert calls == []
    monkeypatch.undo()
    assert_equal_weights(without, train(tmp_path / "b"))


class NoDeterministicAlgorithm(Regression):
    """Calls an operation that has a deterministic algorithm on no device."""

    def training_step(self, batch, batch_index):
        torch.zeros(4).put_(torch.tensor([0]), torch.ones(1))
        return super().training_step(batch, batch_index)


@pytest.mark.parametrize("value", [True, "warn", False])
def test_an_operation_without_a_deterministic_algorithm_is_refused_named_or_passed(value, tmp_path):
    settings = TrainerSettings(epochs=1, accelerator="cpu", measure_energy=False, deterministic=value)
    module, loader = NoDeterministicAlgorithm(0), make_loader(Points(), 8, shuffle_seed=0)
    trainer = make_trainer(settings, tmp_path, 0)
    if value is True:
        with pytest.raises(UserError, match=r"put_.* has no deterministic algorithm"):
            fit(trainer, module, loader)
    elif value == "warn":
        with pytest.warns(UserWarning, match="put_"):
            fit(trainer, module, loader)
    else:
        fit(trainer, module, loader)


def test_another_seed_gives_other_weights(tmp_path):
    first, second = train(tmp_path / "a", seed=3), train(tmp_path / "b", seed=4)
    assert not torch.equal(first.network[0].weight, second.network[0].weight)


def test_the_best_checkpoint_is_that_of_the_best_validation(tmp_path):
    train(tmp_path, monitor="loss")
    table = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True)
    assert len(table) == 6
    assert read_checkpoint(tmp_path / "best.ckpt")["epoch"] == int(table["loss"].argmin())


def test_training_says_nothing_but_its_progress(tmp_path, capfd):
    with warnings.catch_warnings(record=True) as caught:
        train(tmp_path, monitor="loss")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert all(line.startswith("Training: ") for line in captured.err.splitlines()), captured.err
    assert captured.err.splitlines()[-1].startswith("Training: 6 of 6 epochs")
    assert caught == []


def test_a_network_that_comes_in_evaluation_mode_is_trained_in_training_mode(tmp_path):
    module = Regression(0)
    module.network.eval()  # as released weights come
    settings = TrainerSettings(epochs=1, accelerator="cpu", measure_energy=False)
    fit(make_trainer(settings, tmp_path, 0), module, make_loader(Points(), 10, shuffle_seed=0))
    assert int(module.network[1].num_batches_tracked) > 0


def test_a_fast_check_does_two_steps(tmp_path):
    settings = TrainerSettings(epochs=50, accelerator="cpu", measure_energy=False)
    module = Regression(0)
    fit(make_trainer(settings, tmp_path, 0, fast_check=True), module, make_loader(Points(), 8, shuffle_seed=0))
    assert len(module.seen) == 2


def test_a_device_that_is_not_there_is_told_in_a_sentence(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="The trainer cannot be made"):
        make_trainer(TrainerSettings(epochs=1, accelerator="gpu"), tmp_path, 0)


def test_a_checkpoint_that_was_cut_off_is_told_in_a_sentence(tmp_path):
    save_checkpoint({"state_dict": {"network.weight": torch.ones(1000)}}, tmp_path / "last.ckpt")
    whole = (tmp_path / "last.ckpt").read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.ckpt is cut off or is no checkpoint"):
            read_checkpoint(tmp_path / "cut.ckpt")


class Bomb:
    """What a hostile checkpoint could hold."""

    def __reduce__(self):
        return print, ("boom",)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_checkpoint_that_holds_code_is_refused_and_the_code_not_run(tmp_path, capfd, write):
    write({"state_dict": Bomb()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"evil\.ckpt"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert capfd.readouterr().out == ""


def test_a_resume_from_a_damaged_checkpoint_is_told_in_a_sentence(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"last\.ckpt is cut off"):
        train(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    save_checkpoint({"state_dict": {"network.weight": torch.ones(3, 2), "network.bias": torch.ones(3)}}, tmp_path / "a")
    assert set(read_weights(tmp_path / "a", "network.")) == {"weight", "bias"}
    load_weights(nn.Linear(2, 3), tmp_path / "a", "network.")
    with pytest.raises(UserError, match="another network"):
        load_weights(nn.Linear(2, 4), tmp_path / "a", "network.")
    with pytest.raises(UserError, match="no weights"):
        load_weights(nn.Linear(2, 3), tmp_path / "a", "teacher.")


def test_on_a_gpu_adam_takes_a_step_in_one_kernel_unless_it_has_taken_steps_before():
    weights = [nn.Parameter(torch.ones(3)) for _ in range(3)]
    fresh, resumed, plain = (torch.optim.AdamW([weight], lr=0.1) for weight in weights)
    on_gpu, on_cpu = (SimpleNamespace(device=torch.device(name)) for name in ("cuda", "cpu"))
    weights[1].grad = torch.ones(3)
    resumed.step()
    trainer_module.FusedSteps().on_train_start(SimpleNamespace(optimizers=[fresh, resumed]), on_gpu)
    trainer_module.FusedSteps().on_train_start(SimpleNamespace(optimizers=[plain]), on_cpu)
    assert [optimizer.param_groups[0]["fused"] for optimizer in (fresh, resumed, plain)] == [True, None, None]
    for weight, optimizer in ((weights[0], fresh), (weights[2], plain)):
        weight.grad = torch.tensor([1.0, -2.0, 0.5])
        optimizer.step()
    torch.testing.assert_close(weights[0], weights[2])  # a fused step is also one of a CPU


def test_networks_are_compiled_only_where_the_settings_ask(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    for wanted in (False, True):
        settings = TrainerSettings(epochs=1, accelerator="cpu", measure_energy=False, compile=wanted)
        module = Regression(0)
        fit(make_trainer(settings, tmp_path / str(wanted), 0, fast_check=True), module, make_loader(Points(), 10))
        assert compiled == ([module.network] if wanted else [])


def test_a_moving_average_follows_the_weights():
    average, model = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    nn.init.constant_(model.weight, 2.0)
    model.num_batches_tracked.fill_(7)
    update_average(average, model, 0.75)
    assert average.weight.item() == pytest.approx(0.75 * 1 + 0.25 * 2)
    assert average.num_batches_tracked == 7


def test_near_seeds_are_unrelated():
    seeds = {derive_seed(seed, step) for seed in range(30) for step in range(30)}
    assert len(seeds) == 900
    assert derive_seed(1, 2) != derive_seed(2, 1)


def test_the_warm_up_with_cosine_is_the_baselines():
    """5 % split: 28 steps x 150 epochs, 2,000 of them warm-up."""
    schedule = schedules.WarmupCosine(2000, 4200)
    assert [schedule(0), schedule(1), schedule(1000), schedule(2000)] == [0, 1 / 2000, 0.5, 1]
    assert schedule(3100) == pytest.approx(0.5)
    assert schedule(4200) == pytest.approx(0)
    assert schedules.WarmupCosine(0, 100, floor=0.1)(100) == pytest.approx(0.1)


def test_a_warm_up_is_given_in_steps_or_as_a_share():
    assert schedules.warmup_length(2000, None, 4200) == 2000
    assert schedules.warmup_length(None, 0.1, 4200) == 420


def test_the_exponential_warm_up_with_linear_fall_is_the_one_of_cp_jku():
    """CP-ResNet of the DIR paper: rise 5 epochs, constant to 15, linear over 25 to 0.04."""
    schedule = schedules.ExponentialWarmupLinearDown(warmup=5, down_start=15, down_length=25, floor=0.04)
    assert schedule(0) == schedule(0.5) == pytest.approx(math.exp(-5 * 0.9**2))
    assert schedule(2) == pytest.approx(math.exp(-5 * 0.6**2))
    assert [schedule(5), schedule(15)] == [1, 1]
    assert schedule(20) == pytest.approx(0.04 + 0.96 * 20 / 25)
    assert schedule(40) == schedule(300) == pytest.approx(0.04)


def test_checkpoints_are_read_to_the_processor_unless_a_device_is_asked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(trainer_module, "read_checkpoint", lambda path, device: asked.append(device) or {})
    for device in (None, "cpu", "cuda:1"):
        trainer_module.WholeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", device)
    assert asked == ["cpu", "cpu", "cuda:1"]
