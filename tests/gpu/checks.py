"""The parts of the run on a GPU. Each gives one row after another, and the run may end after any of them."""

import copy
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.data.files import human_size
from common.features.front_ends import AtstMel, DesedMel, FrontEnd, KaldiFbank, KaldiLogMel, M2dMel, ResampledMel
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model
from common.training.trainer import FusedSteps
from tests.gpu.devices import Copies, move_fake
from tests.gpu.steps import CASES, Case, attach, autocast, noise, to_device
from tests.support.golden_case import GoldenCase

Row = dict[str, Any]
GOLDEN = ("task1_baseline", "mn04", "dymn10", "passt_s_swa", "atst_frame", "fpasst", "beats", "cp_resnet")
MIXED = "16-mixed"
PRECISIONS = ("32-true", MIXED)
WARM_STEPS, TIMED_STEPS, REPEATED_STEPS = 3, 20, 5


class Device:
    """Where the checks run; on a fake device there are shapes, but no values, times and gradients."""

    def __init__(self, device: torch.device, fake: bool = False):
        self.device, self.fake = device, fake

    def move(self, module: Any) -> Any:
        """The module on the device."""
        if self.fake:
            move_fake(module, self.device)
            return module
        return module.to(self.device)

    def free(self) -> None:
        """Give the memory of earlier parts back."""
        gc.collect()
        if not self.fake:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.fake:
            torch.cuda.synchronize()


class Steps:
    """Training steps of a case, one after another, as Lightning takes them."""

    def __init__(self, case: Case, device: Device, precision: str):
        self.on, self.precision = device, precision
        module, self.batch = case
        self.module = attach(device.move(module))
        self.moved = to_device(self.batch, device.device)
        self.optimizer: torch.optim.Optimizer | None = None
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == MIXED and not device.fake)
        if not device.fake:
            made: Any = self.module.configure_optimizers()
            self.optimizer = made["optimizer"] if isinstance(made, dict) else made
            FusedSteps().on_train_start(_Optimizers(self.optimizer), self.module)  # type: ignore[arg-type]

    def forward(self) -> Tensor:
        """Loss of a step."""
        torch.manual_seed(0)
        with autocast(self.precision):
            return self.module.training_step(self.moved, 0)  # type: ignore[no-any-return]

    def __call__(self) -> Tensor:
        """A whole step."""
        loss = self.forward()
        if self.optimizer is not None:
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()


class _Optimizers:
    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizers = [optimizer]


def training_steps(
    on: Device, full: bool, names: tuple[str, ...] = tuple(CASES), precisions: tuple[str, ...] = PRECISIONS
) -> Iterator[Row]:
    """Every training takes a step: copies, what the host waits for, and whether the loss is finite."""
    for name in names:
        for precision in precisions:
            on.free()
            steps = Steps(CASES[name](full), on, precision)
            with Copies() as copies:
                loss = steps.forward()
            row = {"item": name, "precision": precision, "copies": copies.total, "waits": copies.found["waits"]}
            if not on.fake:
                row |= {"waits of a step": waits(steps), "finite": bool(steps().isfinite())}
                row["peak"] = human_size(torch.cuda.max_memory_allocated())
            assert loss.is_cuda
            yield row


def waits(step: Callable[[], Any]) -> int:
    """How often the host waits for the device in a whole step, as torch counts it."""
    step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def front_ends(on: Device, full: bool) -> Iterator[Row]:
    """Every front end against the CPU, plain and under autocast with TF32 allowed, on a loud tone."""
    makers: dict[str, Callable[[], FrontEnd]] = {
        "ResampledMel": ResampledMel, "KaldiLogMel": KaldiLogMel, "AtstMel": AtstMel, "M2dMel": M2dMel,
        "DesedMel": DesedMel, "KaldiFbank": lambda: KaldiFbank(15.41663, 6.55582, gain=2.0**15),
    }  # fmt: skip
    for name, make in makers.items():
        front_end = make().eval()
        tone = 0.9 * torch.sin(2 * torch.pi * 440 / front_end.sample_rate * torch.arange(front_end.sample_rate))
        waveform = torch.stack([tone, noise(front_end.sample_rate)])
        expected = front_end(waveform)
        there = on.move(copy.deepcopy(front_end))
        for precision in PRECISIONS:
            torch.set_float32_matmul_precision("high")
            with autocast(precision), torch.no_grad():
                found = there(waveform.to(on.device))
            torch.set_float32_matmul_precision("highest")
            yield {"item": name, "precision": precision} | differences(on, found, expected)


def differences(on: Device, found: Tensor, expected: Tensor) -> Row:
    """Largest difference from a CPU, over the spread of what is expected."""
    assert found.is_cuda and found.shape == expected.shape
    if on.fake:
        return {}
    apart = (found.double().cpu() - expected.double()).abs().max() / expected.double().std()
    return {"difference": float(f"{float(apart):.2g}")}


def networks(on: Device, full: bool, names: tuple[str, ...] = GOLDEN) -> Iterator[Row]:
    """Golden networks against the CPU, on which they are the official ones: cuDNN's TF32 off and on, and mixed."""
    for name in names:
        case = GoldenCase(name)
        model = create_audio_model(name).eval()
        load_released_state_dict(model, case.state_dict())
        waveform = case.waveform()
        with torch.inference_mode(not on.fake), torch.no_grad():
            expected = model(waveform).embedding
            there = on.move(model)
            for precision, tf32 in (("32-true", False), ("32-true", True), (MIXED, True)):
                torch.backends.cudnn.allow_tf32 = tf32
                with autocast(precision):
                    found = there(waveform.to(on.device)).embedding
                yield {"item": name, "precision": precision, "TF32 of cuDNN": tf32} | differences(on, found, expected)
        torch.backends.cudnn.allow_tf32 = True


def repeated(on: Device, full: bool, names: tuple[str, ...] = tuple(CASES)) -> Iterator[Row]:
    """Trainings twice from the same seed with deterministic algorithms only: are the weights equal?"""
    for name in names:
        on.free()
        with deterministic():
            try:
                first, second = (trained(name, on) for _ in range(2))
                row: Row = {"equal": all(map(torch.equal, first, second))} if not on.fake else {}
            except RuntimeError as error:
                row = {"equal": False, "refused": str(error).splitlines()[0][:100]}
        yield {"item": name} | row


def trained(name: str, on: Device) -> list[Tensor]:
    """Weights of a small case after some steps."""
    torch.manual_seed(0)
    steps = Steps(CASES[name](False), on, "32-true")
    for _ in range(1 if on.fake else REPEATED_STEPS):
        steps()
    return [parameter.detach() for parameter in steps.module.parameters()]


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms only, as `trainer.deterministic` has it."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def times(on: Device, full: bool, names: tuple[str, ...] = tuple(CASES)) -> Iterator[Row]:
    """Milliseconds of a warm step, clips in a second, peak of the memory."""
    for name in names:
        for precision in PRECISIONS:
            on.free()
            try:
                steps = Steps(CASES[name](full), on, precision)
                milliseconds = measure(on, steps)
            except torch.OutOfMemoryError:
                yield {"item": name, "precision": precision, "ms": None, "peak": "more than there is"}
                continue
            waveform = next(value for value in steps.batch.values() if isinstance(value, Tensor))
            row: Row = {"item": name, "precision": precision, "ms": milliseconds}
            row["clips a second"] = milliseconds and round(1000 * len(waveform) / milliseconds)
            yield row | ({} if on.fake else {"peak": human_size(torch.cuda.max_memory_allocated())})


def measure(on: Device, steps: Callable[[], Any]) -> float | None:
    """Milliseconds of a step."""
    for _ in range(1 if on.fake else WARM_STEPS):
        steps()
    if on.fake:
        return None
    on.synchronize()
    start = time.perf_counter()
    for _ in range(TIMED_STEPS):
        steps()
    on.synchronize()
    return round(1000 * (time.perf_counter() - start) / TIMED_STEPS, 2)


def dials(on: Device, full: bool) -> Iterator[Row]:
    """Settings one by one: matrix products in TF32, channels last, compiled networks."""
    plans: list[tuple[str, str, str, Callable[[nn.Module], Any]]] = [
        ("frame atst_frame", "32-true", "trainer.matmul high", lambda _: torch.set_float32_matmul_precision("high")),
        ("tagging mn10", MIXED, "channels last", lambda module: module.to(memory_format=torch.channels_last)),
        ("task1 baseline", MIXED, "channels last", lambda module: module.to(memory_format=torch.channels_last)),
        ("task1 baseline", "32-true", "trainer.compile", lambda module: on.fake or module.network.compile()),
        ("tagging dymn10", MIXED, "trainer.compile", lambda module: on.fake or module.network.compile()),
    ]
    for name, precision, setting, change in plans:
        row: Row = {"item": name, "precision": precision, "setting": setting}
        for which in ("ms before", "ms"):
            on.free()
            steps = Steps(CASES[name](full), on, precision)
            if which == "ms" and not (on.fake and "channels" in setting):
                change(steps.module)
            row[which] = measure(on, steps)
        torch.set_float32_matmul_precision("highest")
        yield row


PARTS: dict[str, tuple[int, Callable[[Device, bool], Iterator[Row]]]] = {
    "front ends": (30, front_ends),
    "training steps": (120, training_steps),
    "networks": (60, networks),
    "repeated": (90, repeated),
    "times": (150, times),
    "dials": (90, dials),
}
"""Seconds of each part, and the part, in order of worth; 540 s in all."""
