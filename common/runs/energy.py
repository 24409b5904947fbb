"""Energy of a training, by codecarbon's offline tracker; an error in it never stops a training."""

import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from common.data.files import read_json, write_json
from common.errors import UserError
from common.output import say
from common.runs.folder import is_main_process
from common.settings import MachineSettings

# codecarbon's names of its methods for the processor's power.
CPU_METHODS = {
    "intel_rapl": "measured by the processor (RAPL)",
    "intel_power_gadget": "measured by the processor (Power Gadget)",
    "cpu_load": "estimated from load and the processor's rated power",
    "constant": "estimated as a constant share of the processor's rated power",
}


def measure_energy(folder: Path, settings: MachineSettings) -> "EnergyMeter":
    """Measure the energy of a `with` block into `folder`/energy.json, if the settings of the trainer ask for it."""
    return EnergyMeter(folder if settings.measure_energy else None, settings.country)


class EnergyMeter:
    """Measures the energy of its `with` block and adds it to energy.json in a folder.

    energy.json: ``energy_kwh``, ``components`` (cpu, gpu, ram: ``kwh`` or null, and ``how`` it was measured or why
    not), ``seconds``, and ``sessions``, one for each start of the run. A killed session stays ``finished: false`` and
    is not part of the total. codecarbon's own table lies beside it as emissions.csv.

    Args:
        folder: of energy.json; None measures nothing. Only rank 0 measures, for its whole machine.
        country: ISO code with three letters, for the CO2 in emissions.csv.
    """

    def __init__(self, folder: Path | None, country: str = "AUT"):
        self.folder, self.country = folder if is_main_process() else None, country
        self._tracker: Any = None
        self._problem: str | None = None
        self._started = 0.0

    def __enter__(self) -> "EnergyMeter":
        if self.folder is None:
            return self
        self._started = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._tracker = _start_tracker(self.folder, self.country)
        except Exception as error:
            self._problem = f"codecarbon did not start ({type(error).__name__}: {error})"
        self._note({"started": _now(), "finished": False})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.folder is None:
            return
        components, emissions_kg = self._components()
        seconds = round(time.monotonic() - self._started, 1)
        session = {"finished": True, "seconds": seconds, "emissions_kg": emissions_kg, "components": components}
        self._note(session, last=True)

    def _components(self) -> tuple[dict[str, dict[str, Any]], float | None]:
        if self._tracker is None:
            return {name: {"kwh": None, "how": self._problem} for name in ("cpu", "gpu", "ram")}, None
        try:
            emissions_kg = self._tracker.stop()
            return _components(self._tracker), emissions_kg
        except Exception as error:
            problem = f"codecarbon failed ({type(error).__name__}: {error})"
            return {name: {"kwh": None, "how": problem} for name in ("cpu", "gpu", "ram")}, None

    def _note(self, entry: dict[str, Any], last: bool = False) -> None:
        """Add a session to energy.json, or complete the last one; errors of the disk are only logged."""
        assert self.folder is not None
        path = self.folder / "energy.json"
        try:
            sessions = read_sessions(path)
            if last and sessions:
                sessions[-1] |= entry
            else:
                sessions.append(entry)
            write_json(path, summary(sessions))
        except OSError as error:
            logging.getLogger(__name__).warning("energy.json could not be written: %s", error)


def read_sessions(path: Path) -> list[dict[str, Any]]:
    """Sessions of an energy.json; none if it is missing or damaged, which must not stop a training."""
    try:
        sessions = read_json(path, "it is begun anew", {"sessions": list})["sessions"]
        summary(sessions)
    except (UserError, KeyError, TypeError) as error:
        if path.exists():
            say(str(error) if isinstance(error, UserError) else f"{path} is damaged; it is begun anew.")
        return []
    return sessions


def read_energy(folder: Path) -> dict[str, Any]:
    """The energy.json in the folder of a stage; empty if it was not measured.

    Raises:
        UserError: if it is damaged.
    """
    path = folder / "energy.json"
    if not path.exists():
        return {}
    keys = {"energy_kwh": int | float | None, "components": dict, "seconds": int | float}
    return read_json(path, "delete it to go on without its figures", keys)


def summary(sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum over the finished sessions; a component is null if no session could measure it."""
    finished = [session for session in sessions if session["finished"]]
    components = {}
    for name in ("cpu", "gpu", "ram"):
        parts = [session["components"][name] for session in finished]
        known = [part["kwh"] for part in parts if part["kwh"] is not None]
        how = parts[-1]["how"] if parts else "no session has finished"
        components[name] = {"kwh": sum(known) if known else None, "how": how}
    known = [part["kwh"] for part in components.values() if part["kwh"] is not None]
    return {
        "energy_kwh": sum(known) if known else None,
        "components": components,
        "seconds": sum(session["seconds"] for session in finished),
        "sessions_not_measured": len(sessions) - len(finished),
        "sessions": sessions,
    }


def _start_tracker(folder: Path, country: str) -> Any:
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        output_dir=str(folder),
        output_file="emissions.csv",
        log_level="critical",
        tracking_mode="machine",
        # Otherwise a second training on this machine would not be measured.
        allow_multiple_runs=True,
    )
    tracker.start()
    return tracker


def _components(tracker: Any) -> dict[str, dict[str, Any]]:
    data = tracker.final_emissions_data
    cpu_mode = str(next((part._mode for part in tracker._hardware if type(part).__name__ == "CPU"), "unknown"))
    return {
        "cpu": _component(data.cpu_energy, CPU_METHODS.get(cpu_mode, cpu_mode), "the processor gave no power"),
        "gpu": _component(data.gpu_energy, "measured by the GPU (NVML)", "no GPU that reports its power"),
        "ram": _component(data.ram_energy, "estimated from the number of memory modules", "memory size is unknown"),
    }


def _component(kwh: float, how: str, why_not: str) -> dict[str, Any]:
    return {"kwh": kwh, "how": how} if kwh > 0 else {"kwh": None, "how": f"not measured: {why_not}"}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
