"""Which engine a prediction gets; the CPU's units and the installation are made up."""

import dataclasses

import pytest

from crlm_jax.predict.engine import choice
from crlm_jax.predict.engine.choice import XLA, Engine, EngineError, choose


@dataclasses.dataclass
class Device:
    platform: str


@pytest.fixture
def machine(monkeypatch):
    def make(installed: bool = True, units: bool = True):
        monkeypatch.setattr(choice, "_is_installed", lambda: installed)
        monkeypatch.setattr(choice, "_has_bfloat16_units", lambda: units)
        monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    return make


@pytest.mark.parametrize(
    ("installed", "units", "platform", "expected"),
    [
        (True, True, "cpu", Engine("OpenVINO", "bfloat16")),
        (True, True, None, Engine("OpenVINO", "bfloat16")),
        (True, True, "gpu", XLA),
        (True, False, "cpu", XLA),
        (False, True, "cpu", XLA),
    ],
)
def test_auto_is_openvino_only_where_it_is_faster(machine, installed, units, platform, expected):
    machine(installed, units)
    assert choose("auto", platform and Device(platform)) == expected


def test_auto_on_a_machine_whose_first_device_is_another(machine, monkeypatch):
    machine()
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    assert choose("auto") == XLA
    assert choose("auto", Device("cpu")).name == "OpenVINO"


def test_xla_is_xla(machine):
    machine()
    assert choose("xla") == XLA
    assert str(XLA) == "XLA in float32"


def test_openvino_without_units_computes_in_float32_and_says_so(machine):
    machine(units=False)
    engine = choose("openvino")
    assert (engine.name, engine.precision) == ("OpenVINO", "float32")
    assert "no units for bfloat16" in engine.note


def test_openvino_that_cannot_compute_is_an_error_with_the_remedy(machine):
    machine(installed=False)
    with pytest.raises(EngineError, match=r"openvino is missing; pip install 'crlm_jax\[engine\]'"):
        choose("openvino")
    machine()
    with pytest.raises(EngineError, match="not on gpu; give --device cpu, or --engine xla"):
        choose("openvino", Device("gpu"))
