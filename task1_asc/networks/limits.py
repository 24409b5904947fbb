"""What networks cost, and the limits of the challenge: the nearest and the largest widths within them."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch

from common.errors import UserError
from common.inference.complexity import BYTES, Complexity, challenge_macs, count_parameters, measure
from common.inference.quantize import folded_copy, int8_bytes, measure_int8
from common.models.network import make_divisible, without_values
from common.runs.run import Run
from task1_asc.networks.build import KEPT_FLOAT, input_shape, make_network
from task1_asc.settings import LimitsSettings, ModelSettings, Task1Settings

# What is searched: widths are rounded to multiples of 8, so that finer steps give the same networks.
BASES = tuple(range(8, 49, 8))
MULTIPLIERS = tuple(round(1 + 0.1 * step, 1) for step in range(21))
EXPANSIONS = tuple(round(1 + 0.1 * step, 1) for step in range(31))


@dataclass(frozen=True)
class Width:
    """A network's dials and what it costs."""

    model: ModelSettings
    figures: Complexity

    @property
    def dials(self) -> str:
        """Such as "base_channels 32, channels_multiplier 1.8, expansion_rate 2.1"."""
        model = self.model
        return (
            f"base_channels {model.base_channels}, channels_multiplier {model.channels_multiplier}, "
            f"expansion_rate {model.expansion_rate}"
        )

    def row(self) -> dict[str, Any]:
        """For a table."""
        dials = self.model.model_dump(exclude={"name"})
        figures = self.figures
        return {**dials, "parameters": figures.parameters, "bytes": figures.bytes, "MACs": figures.challenge_macs}


def measure_network(model: ModelSettings, shape: tuple[int, ...], precision: str) -> Complexity:
    """Figures of the network for one second in float32, float16 or int8 (see `common.inference.quantize`)."""
    with without_values():
        network = make_network(model)
    return measure_int8(network, shape, KEPT_FLOAT) if precision == "int8" else measure(network, shape, precision)


class Cost(NamedTuple):
    """Parameters, bytes at a precision, and MACs for one clip, as the challenge counts them."""

    parameters: int
    bytes: int
    challenge_macs: int


def measure_networks(runs: Sequence[Run[Task1Settings]], precision: str) -> list[Cost]:
    """The cost of each run's network; equal ones are measured once.

    In int8, bytes are of the packed weights and of biases in float32.
    """
    known: dict[tuple[str, str], Cost] = {}
    measured = []
    for run in runs:
        settings = run.settings
        front_end = "" if settings.front_end is None else settings.front_end.model_dump_json()
        key = (settings.model.model_dump_json(), front_end)
        if key not in known:
            with without_values():
                network = make_network(settings.model)
            parameters = count_parameters(folded_copy(network) if precision == "int8" else network)
            macs = count_macs(settings.model, input_shape(settings), precision)
            known[key] = Cost(parameters, count_bytes(settings.model, precision), macs)
        measured.append(known[key])
    return measured


def count_bytes(model: ModelSettings, precision: str) -> int:
    """Bytes of the parameters, as of `measure_network` but quicker."""
    with without_values():
        network = make_network(model)
    return int8_bytes(network, KEPT_FLOAT) if precision == "int8" else count_parameters(network) * BYTES[precision]


def count_macs(model: ModelSettings, shape: tuple[int, ...], precision: str) -> int:
    """MACs for one second, as of `measure_network` but quicker."""
    network = make_network(model).eval()  # on the CPU: the meta device imports torch._dynamo, which takes seconds
    network = folded_copy(network) if precision == "int8" else network
    return challenge_macs(network, {"spectrogram": torch.zeros(shape)})


def refuse_over(settings: Task1Settings, limits: LimitsSettings) -> None:
    """Refuse to train a network that could not be submitted.

    Raises:
        UserError: with which limit, by how much, and the nearest widths that fit.
    """
    shape = input_shape(settings)
    figures = measure_network(settings.model, shape, settings.precision)
    over = [
        f"{value:,} {unit}, {value - most:,} over the limit of {most:,}"
        for value, unit, most in (
            (figures.bytes, f"bytes in {settings.precision}", limits.max_bytes),
            (figures.challenge_macs, "multiply-accumulates for one second", limits.max_macs),
        )
        if value > most
    ]
    if over:
        near = nearest_width(settings.model, shape, settings.precision, limits)
        hint = f"The nearest that fits has model.{near.dials}." if near else "No width of this network fits."
        raise UserError(f"The network {settings.model.name} has {' and '.join(over)}. {hint} See `search_width`.")


def nearest_width(model: ModelSettings, shape: tuple[int, ...], precision: str, limits: LimitsSettings) -> Width | None:
    """The network within the limits with the smallest changes of the three dials, as ratios."""

    def change(other: ModelSettings) -> float:
        return sum(abs(math.log(value / own)) for value, own in zip(_dials(other), _dials(model)))

    smallest = _dialled(model, BASES[0], MULTIPLIERS[0], EXPANSIONS[0])
    if not fits(measure_network(smallest, shape, precision), limits):
        return None
    too_much: list[tuple[float, ...]] = []  # bytes and MACs grow with each dial
    for other in sorted(_widths(model), key=change):
        dials = _dials(other)
        if any(all(value >= least for value, least in zip(dials, known)) for known in too_much):
            continue
        if count_bytes(other, precision) <= limits.max_bytes:
            figures = measure_network(other, shape, precision)
            if fits(figures, limits):
                return Width(other, figures)
        too_much.append(dials)
    return None


def largest_widths(settings: Task1Settings, count: int = 10) -> list[Width]:
    """The networks within the limits with most bytes, largest first; equal ones once.

    Raises:
        UserError: if the settings have no limits, or no width is within them.
    """
    if settings.limits is None:
        raise UserError("The settings have no limits to search within; add the group limits.")
    limits, precision, shape = settings.limits, settings.precision, input_shape(settings)
    sized = sorted(_widest(settings.model, precision, limits), key=lambda item: -item[0])
    found: dict[tuple[int, int], Width] = {}
    for size, model in sized:
        best = sorted((wide.figures.bytes for wide in found.values()), reverse=True)
        if len(best) >= count and best[count - 1] >= size:
            break
        wide = _within_macs(model, shape, precision, limits)
        if wide is not None:
            found.setdefault((wide.figures.bytes, wide.figures.challenge_macs), wide)
    if not found:
        raise UserError(f"No width of {settings.model.name} is within the limits.")
    return sorted(found.values(), key=lambda wide: -wide.figures.bytes)[:count]


def fits(figures: Complexity, limits: LimitsSettings) -> bool:
    """Whether a network is within the limits."""
    return figures.bytes <= limits.max_bytes and figures.challenge_macs <= limits.max_macs


def _widest(model: ModelSettings, precision: str, limits: LimitsSettings) -> Iterator[tuple[int, ModelSettings]]:
    """For each value of two dials the largest expansion with bytes within the limit, and these bytes."""
    for base, multiplier in product(BASES, MULTIPLIERS):
        sizes: dict[int, int] = {}

        def size(index: int, base: int = base, multiplier: float = multiplier, sizes: Any = sizes) -> int:
            if index not in sizes:
                sizes[index] = count_bytes(_dialled(model, base, multiplier, EXPANSIONS[index]), precision)
            return sizes[index]

        if size(0) > limits.max_bytes:
            break  # a larger multiplier has more
        last = bisect_right(range(len(EXPANSIONS)), limits.max_bytes, key=size) - 1
        yield size(last), _dialled(model, base, multiplier, EXPANSIONS[last])


def _within_macs(model: ModelSettings, shape: tuple[int, ...], precision: str, limits: LimitsSettings) -> Width | None:
    """The network with the largest expansion, up to its own, that is within both limits."""
    expansions = [value for value in EXPANSIONS if value <= model.expansion_rate]

    def macs(expansion: float) -> int:
        return count_macs(_dialled(model, model.base_channels, model.channels_multiplier, expansion), shape, precision)

    if macs(expansions[-1]) > limits.max_macs:
        expansions = expansions[: bisect_right(expansions, limits.max_macs, key=macs)]
    if not expansions:
        return None
    smaller = _dialled(model, model.base_channels, model.channels_multiplier, expansions[-1])
    return Width(smaller, measure_network(smaller, shape, precision))


def _dials(model: ModelSettings) -> tuple[float, float, float]:
    return model.base_channels, model.channels_multiplier, model.expansion_rate


def _dialled(model: ModelSettings, base: int, multiplier: float, expansion: float) -> ModelSettings:
    return ModelSettings(name=model.name, base_channels=base, channels_multiplier=multiplier, expansion_rate=expansion)


def _widths(model: ModelSettings) -> Iterator[ModelSettings]:
    """The same network in every width, each once."""
    seen = set()
    for base, multiplier, expansion in product(BASES, MULTIPLIERS, EXPANSIONS):
        channels = [base, *(make_divisible(base * multiplier**stage) for stage in (1, 2))]
        key = (*channels, *(make_divisible(width * expansion) for width in channels))
        if key not in seen:
            seen.add(key)
            yield _dialled(model, base, multiplier, expansion)
