import json

import pytest

from common.runs import energy
from common.runs.energy import EnergyMeter


def read(folder):
    return json.loads((folder / "energy.json").read_text())


class Part:
    """Stands for codecarbon's record of a run, as its version 3 names the fields."""

    cpu_energy, gpu_energy, ram_energy = 0.002, 0.0, 0.001


class Tracker:
    final_emissions_data = Part()
    _hardware = ()

    def stop(self):
        return 0.0005


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(energy, "_start_tracker", lambda folder, country: Tracker())


def test_codecarbon_measures_something_and_keeps_its_table(tmp_path):
    with EnergyMeter(tmp_path):
        sum(range(3_000_000))
    found = read(tmp_path)
    assert found["energy_kwh"] > 0
    assert found["components"]["ram"]["kwh"] > 0
    assert (tmp_path / "emissions.csv").is_file()
    if found["components"]["gpu"]["kwh"] is None:
        assert found["components"]["gpu"]["how"].startswith("not measured")


def test_what_could_not_be_measured_is_named_and_not_called_zero(tmp_path, quick):
    with EnergyMeter(tmp_path):
        pass
    found = read(tmp_path)
    assert found["components"]["gpu"] == {"kwh": None, "how": "not measured: no GPU that reports its power"}
    assert found["energy_kwh"] == pytest.approx(0.003)


def test_a_resumed_run_adds_its_energy(tmp_path, quick):
    for _ in range(3):
        with EnergyMeter(tmp_path):
            pass
    assert read(tmp_path)["energy_kwh"] == pytest.approx(0.009)
    assert len(read(tmp_path)["sessions"]) == 3


def test_a_session_that_was_killed_is_counted_as_not_measured(tmp_path, quick):
    EnergyMeter(tmp_path).__enter__()  # and the process is gone
    with EnergyMeter(tmp_path):
        pass
    found = read(tmp_path)
    assert found["sessions_not_measured"] == 1
    assert found["energy_kwh"] == pytest.approx(0.003)


def test_a_tracker_that_fails_stops_no_training(tmp_path, monkeypatch):
    def broken(folder, country):
        raise PermissionError("no counters for you")

    monkeypatch.setattr(energy, "_start_tracker", broken)
    with EnergyMeter(tmp_path):
        trained = True
    assert trained
    assert read(tmp_path)["energy_kwh"] is None
    assert "no counters for you" in read(tmp_path)["components"]["cpu"]["how"]


def test_an_error_of_the_training_passes_through(tmp_path, quick):
    with pytest.raises(KeyError), EnergyMeter(tmp_path):
        raise KeyError("from the training")
    assert read(tmp_path)["sessions"][0]["finished"]


def test_a_damaged_energy_file_is_begun_anew(tmp_path, quick):
    (tmp_path / "energy.json").write_text("{")
    with EnergyMeter(tmp_path):
        pass
    assert len(read(tmp_path)["sessions"]) == 1


def test_nothing_is_written_when_energy_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with EnergyMeter(None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_several_processes_the_first_measures(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with EnergyMeter(tmp_path):
        pass
    assert not (tmp_path / "energy.json").exists()
