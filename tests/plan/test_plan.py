"""The planner: what it reads in a compiled program, and what follows from it."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from configs.cross_pre import get_config
from crlm_jax.config.schema import Config
from crlm_jax.config.storage import differences, from_json
from crlm_jax.errors import UserError
from crlm_jax.plan import compiling, hlo, kept, scaling, targets
from crlm_jax.plan import cost as plan_cost
from crlm_jax.plan import report as plan_report
from crlm_jax.plan.gpus import GPUS
from crlm_jax.plan.kernels import Kernel, kernels
from crlm_jax.plan.rows import Memory, PlanRow, StepReport, Traffic
from crlm_jax.plan.tpus import TPUS
from tests.method.test_step import small_config

RESULTS = Path(__file__).parents[2] / "docs" / "results"
DOCUMENTED, DOCUMENTED_GPUS = RESULTS / "plan.json", RESULTS / "plan_gpus.json"
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler (the extra `plan`) is not installed",
)
needs_cuda_compiler = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None
    or importlib.util.find_spec("jax_plugins.xla_cuda13") is None,
    reason="XLA's compiler for NVIDIA GPUs (the extra `plan-gpu`) is not installed",
)

# As the TPU compiler writes it, shortened: tiled layouts, three ways to write a group.
PROGRAM = """HloModule jit_train_step, is_scheduled=true, entry_computation_layout={(f32[8])->f32[8]}

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%x, %y), backend_config={"estimated_cycles":"9000"}
}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0:T(128)} parameter(0)
  ROOT %multiply.1 = f32[8]{0:T(128)} multiply(%p, %p), backend_config={"estimated_cycles":"9000"}
}

%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[], f32[8]{0:T(128)}) parameter(0)
  %g = f32[8]{0:T(128)} get-tuple-element(%b), index=1
  %all-reduce.7 = f32[8]{0:T(128)S(1)} all-reduce(%g), channel_id=2, replica_groups=[1,4]<=[4], to_apply=%sum
  %fusion.2 = f32[8]{0:T(128)} fusion(%all-reduce.7), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"10"}}
  ROOT %t = (s32[], f32[8]{0:T(128)}) tuple(%b, %fusion.2)
}

%condition (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0:T(128)}) parameter(0)
  ROOT %less = pred[]{:T(512)} compare(%c, %c), direction=LT, backend_config={"estimated_cycles":"1"}
}

%short (s: f32[8]) -> f32[8] {
  %s = f32[8]{0:T(128)} parameter(0)
  ROOT %negate.1 = f32[8]{0:T(128)} negate(%s), backend_config={"estimated_cycles":"5"}
}

%long (l: f32[8]) -> f32[8] {
  %l = f32[8]{0:T(128)} parameter(0)
  ROOT %sine.1 = f32[8]{0:T(128)} sine(%l), backend_config={"estimated_cycles":"700"}
}

ENTRY %main (param.0: f32[8], param.1: bf16[16,4]) -> f32[8] {
  %param.0 = f32[8]{0:T(128)} parameter(0), metadata={op_name="state.params['estimated_cycles']"}
  %param.1 = bf16[16,4]{1,0:T(8,128)(2,1)} parameter(1)
  %fusion.1 = f32[8]{0:T(128)} fusion(%param.0), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"2000"}}
  %all-reduce.1 = (f32[3,3,8,16]{3,2,1,0:T(8,128)S(1)}, /*index=1*/f32[]{:T(128)}) all-reduce(%fusion.1, %fusion.1), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0','axis_1'}, use_global_device_ids=true, to_apply=%sum
  %all-gather-start.1 = (bf16[16,4]{1,0:T(8,128)(2,1)}, bf16[32,4]{1,0:T(8,128)(2,1)}) all-gather-start(%param.1), channel_id=3, replica_groups={{0,1},{2,3}}, dimensions={0}
  %while.1 = (s32[], f32[8]{0:T(128)}) while(%fusion.1), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %all-gather-done.1 = bf16[32,4]{1,0:T(8,128)(2,1)} all-gather-done(%all-gather-start.1)
  %reduce-scatter.1 = f32[2]{0:T(128)} reduce-scatter(%param.0), channel_id=4, replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%sum
  %collective-permute.1 = u8[5,3]{1,0} collective-permute(%param.1), channel_id=5, source_target_pairs={{0,1},{1,2}}
  %conditional.1 = f32[8]{0:T(128)} conditional(%param.0, %param.0, %param.0), branch_computations={%short, %long}
  ROOT %call.1 = f32[8]{0:T(128)} call(%conditional.1), to_apply=%short
}
"""  # noqa: E501


def test_collectives_are_found_with_bytes_group_and_number_of_runs():
    found = {one.kind + str(one.times): one for one in hlo.Program(PROGRAM, 4).collectives()}
    sizes = {name: (one.size, one.group, one.sent) for name, one in found.items()}
    gradient = 4 * (3 * 3 * 8 * 16 + 1)
    assert sizes == {
        "all-reduce1": (gradient, 4, gradient * 1.5),
        "all-gather1": (2 * 32 * 4, 2, 32 * 4),
        "all-reduce3": (32, 4, 48),  # of the loop
        "reduce-scatter1": (8, 4, 24),
        "collective-permute1": (15, 4, 15),
    }
    assert found["all-reduce1"].shape == "f32[3,3,8,16], f32[]"


def test_cycles_are_those_of_what_runs_one_by_one():
    fusion, loop, branch, call = 2000, 3 * (10 + 1), 700, 5
    assert hlo.Program(PROGRAM).cycles() == fusion + loop + branch + call


# As XLA writes it for a GPU, shortened: a fusion, cuDNN's and cuBLAS's calls, and a loop.
GPU_PROGRAM = """HloModule jit_train_step, is_scheduled=true

%product (a: f32[64,32], b: f32[32,8]) -> f32[64,8] {
  %a = f32[64,32]{1,0} parameter(0)
  %b = f32[32,8]{1,0} parameter(1)
  ROOT %dot.1 = f32[64,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (s: f32[8]) -> f32[8] {
  %s = f32[8]{0} parameter(0)
  ROOT %negate.1 = f32[8]{0} negate(%s)
}

%condition (c: f32[8]) -> pred[] {
  %c = f32[8]{0} parameter(0)
  ROOT %less = pred[] compare(%c, %c), direction=LT
}

ENTRY %main (x: bf16[2,8,8,4], w: bf16[16,3,3,4], l: f32[64,32], r: f32[32,8], v: f32[8]) -> f32[8] {
  %x = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %w = bf16[16,3,3,4]{3,2,1,0} parameter(1)
  %l = f32[64,32]{1,0} parameter(2)
  %r = f32[32,8]{1,0} parameter(3)
  %v = f32[8]{0} parameter(4)
  %cudnn-conv.1 = (bf16[2,4,4,16]{3,2,1,0}, u8[1000]{0}) custom-call(%x, %w), window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %get-tuple-element.1 = bf16[2,4,4,16]{3,2,1,0} get-tuple-element(%cudnn-conv.1), index=0
  %cudnn-conv.2 = (bf16[2,8,8,4]{3,2,1,0}, u8[1000]{0}) custom-call(%get-tuple-element.1, %w), window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %cudnn-conv.3 = (bf16[16,3,3,4]{3,2,1,0}, u8[1000]{0}) custom-call(%x, %get-tuple-element.1), window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %fusion.1 = f32[64,8]{1,0} fusion(%l, %r), kind=kCustom, calls=%product
  %cublas-gemm.1 = (f32[64,8]{1,0}, s8[4096]{0}) custom-call(%l, %r), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]},"precision_config":{"operand_precision":["HIGHEST","HIGHEST"]}}}
  ROOT %while.1 = f32[8]{0} while(%v), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""  # noqa: E501


def test_the_kernels_of_a_gpu_have_the_flops_and_the_bytes_of_their_operands():
    forward = 2.0 * (2 * 4 * 4 * 16) * (3 * 3 * 4)  # of all three convolutions
    image, kernel, result = 2 * 2 * 8 * 8 * 4, 2 * 16 * 3 * 3 * 4, 2 * 2 * 4 * 4 * 16
    product, matrices = 2.0 * 64 * 8 * 32, 4 * (64 * 32 + 32 * 8 + 64 * 8)
    found = kernels(hlo.Program(GPU_PROGRAM))
    assert found[:5] == [
        Kernel("cudnn-conv.1", forward, image + kernel + result, "bfloat16"),
        Kernel("cudnn-conv.2", forward, image + kernel + result, "bfloat16"),
        Kernel("cudnn-conv.3", forward, image + kernel + result, "bfloat16"),
        Kernel("fusion.1", product, matrices, "tf32"),
        Kernel("cublas-gemm.1", product, matrices, "float32"),
    ]
    assert [kernel.name for kernel in found[5:]] == 3 * ["less"] + 3 * ["negate.1"]
    assert {kernel.flops for kernel in found[5:]} == {0}


def test_a_gpu_takes_the_time_of_flops_or_bytes_of_every_kernel():
    gpu = dataclasses.replace(
        GPUS["h100"], peak_flops=36864.0, tf32_flops=3276.8, float32_flops=32768.0,
        hbm_bandwidth=11264.0,
    )  # fmt: skip
    # Three convolutions of a second, ten seconds and one of the two products, and the loop's bytes.
    loop = 3 * (2 * 32 + 1 + 2 * 32) / 11264
    assert gpu.compute_seconds(hlo.Program(GPU_PROGRAM)) == pytest.approx(3 + 10 + 1 + loop)


def test_arrays_that_leave_lanes_empty_are_found_by_their_layout():
    text = """ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %full = bf16[16,8,8,128]{3,0,2,1:T(8,128)(2,1)} fusion(%p), kind=kLoop, calls=%f
  %narrow.1 = bf16[16,8,8,128]{2,3,1,0:T(8,128)(2,1)} fusion(%full), kind=kLoop, calls=%f
  %narrow.2 = (f32[128]{0}, bf16[16,8,8,128]{0,3,2,1:T(8,128)(2,1)}) fusion(%full), calls=%f
  ROOT %small = f32[8,8]{1,0} fusion(%full), kind=kLoop, calls=%f
}
"""
    assert hlo.Program(text).narrow(16 * 8 * 8 * 128) == {"bf16[16,8,8,128]": 2}
    assert hlo.Program(text).narrow(64) == {"bf16[16,8,8,128]": 2, "f32[8,8]": 1}


def test_a_text_without_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.Program("HloModule empty\n")


@pytest.mark.parametrize("name", ["v9:2x2", "", "b200:8"])
def test_an_unknown_chip_is_one_error_that_lists_the_known_ones(name):
    with pytest.raises(UserError) as caught:
        targets.find_target(name)
    assert all(example in str(caught.value) for example in (*targets.EXAMPLES.values(), "cpu"))


@pytest.mark.parametrize(
    ("name", "said"),
    [(f"v5e{lengths}", "2 axes, as in v5e:2x2") for lengths in (":2x2x1", ":2xa", "", ":0x2")]
    + [(f"h100:{count}", "1 to 8 GPUs of one host, as in h100:4") for count in ("0", "9", "2x4")],
)
def test_a_wrong_number_of_chips_is_one_error_with_a_right_one(name, said):
    with pytest.raises(UserError, match=said):
        targets.find_target(name)


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "plan"), ("h100", "plan-gpu")])
def test_without_its_compiler_the_error_says_what_to_install(monkeypatch, name, extra):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'crlm_jax\[{extra}\]'"):
        targets.find_target(name)


def make_report(**changes) -> StepReport:
    """A compiler's report of a step on v5e:2x2, in round numbers."""
    parts = ("arguments", "outputs", "aliased", "temporaries", "code")
    report = StepReport(
        topology="v5e:2x2", chip="v5e", chips=4, batch=16,
        memory_bytes=Memory(**dict.fromkeys(parts, 2**30), total=4 * 2**30),
        flops=197e9, useful_flops=98.5e9, bytes_accessed=819e6, cycles=3_000_000,
        compute_seconds=2e-3, narrow={},
        collectives={"all-reduce": Traffic(count=100, bytes=10**8, sent_bytes=1.5e8)},
        compile_seconds=1.0,
    )  # fmt: skip
    return dataclasses.replace(report, **changes)


def make_row(scaling=("weak", "strong"), shape=(2, 2), slices=800, **changes) -> PlanRow:
    report = make_report(**changes)
    times = plan_cost.estimate_times(report, TPUS["v5e"], shape, Config(), slices)
    return PlanRow(scaling, report.topology, report.batch, report.chips, report, times)


def test_times_follow_from_the_report_and_the_chip():
    times = make_row().times  # of a step that computes for 2 ms
    assert times.transfer_seconds == pytest.approx(1.5e-3)  # two ports, 50 GB/s each
    assert times.latency_seconds == pytest.approx(100 * 2 * 2 * 1e-6)
    assert times.step_seconds == pytest.approx(3.9e-3)
    assert times.roofline_seconds == pytest.approx(1e-3)
    assert times.peak_share == pytest.approx(1 / 3.9)
    assert times.useful_share == pytest.approx(0.5 / 3.9)
    assert times.collective_share == pytest.approx(1.9 / 3.9)
    assert times.hbm_share == pytest.approx(0.25)
    assert times.images_per_second == pytest.approx(16 / 3.9e-3)
    assert times.steps == 200 * 800 // 16
    assert times.chip_hours == pytest.approx(4 * 10_000 * 3.9e-3 / 3600)


def test_a_ring_is_shorter_and_wider_than_a_line():
    chip = TPUS["v5e"]
    assert (chip.hops((16, 16)), chip.hops((4, 4)), chip.hops((1, 1))) == (16, 6, 0)
    assert chip.send_bandwidth((16, 16)) == 2 * chip.send_bandwidth((4, 4)) == 200e9


def test_the_slices_are_those_of_the_papers_cohort():
    config = Config()
    config.data.conditions = ("ct",)
    assert plan_cost.paper_slices(config) == round(2142 * 0.8)
    config.data.conditions = ("pre_dwi", "pre_t2wi")
    assert plan_cost.paper_slices(config) == round(2546 / 2 * 66 / 111 * 0.8)
    config.data.conditions = ("dce",)
    with pytest.raises(UserError, match="--slices"):
        plan_cost.paper_slices(config)


@pytest.mark.parametrize("most", [0, 1, 3, 4, 5, 37, 1000])
@pytest.mark.parametrize("padded", [1, 8])
@pytest.mark.parametrize("start", [1, 4])
def test_the_largest_batch_is_found_in_few_compiles(most, padded, start):
    """Memory of 100 a slice over a base of 150, or in lumps of eight slices."""
    asked = []

    def memory(n):
        asked.append(n)
        used = 150 + 100 * -(-n // padded) * padded
        return used if n < 2 * most else None

    limit = 150 + 100 * most
    wanted = max(n for n in range(most + 1) if n == 0 or (memory(n) or limit + 1) <= limit)
    first = memory(start)
    asked.clear()
    assert scaling.largest_batch(memory, limit, start, first) == wanted
    assert len(asked) == len(set(asked)) <= (5 if padded == 1 else 12)
    assert start not in asked


@pytest.fixture
def in_one_process(monkeypatch, tmp_path):
    """What is patched here is patched for the compiling too, and no report outlives a test."""
    for module in (scaling, kept):
        monkeypatch.setattr(module, "in_subprocess", lambda function, *args: function(*args))
    folder = kept.cache_folder
    monkeypatch.setattr(kept, "cache_folder", lambda cache, part: folder(tmp_path, part))


@pytest.mark.usefixtures("in_one_process")
def test_a_batch_beyond_the_memory_does_not_fit_and_other_errors_show(monkeypatch):
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm"

    def refuse(step, target, batch):
        raise jax.errors.JaxRuntimeError(message)

    target = targets.Target("v5e:2x2", TPUS["v5e"], (2, 2), [None] * 4)
    monkeypatch.setattr(compiling, "find_target", lambda name: target)
    monkeypatch.setattr(compiling, "compile_step", refuse)
    memory = scaling.chip_memory(bare_config(), target)
    assert memory(1) is None
    message = "INTERNAL: a fault of the compiler"
    assert memory(1) is None  # kept
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        memory(2)


def bare_config(**changes) -> Config:
    """The fastest to compile: a UNet of two depths and no critic."""
    changes = {"segmenter__name": "unet", "segmenter__widths": (4, 8), "loss__stages": ()} | changes
    return small_config(**changes)


@pytest.mark.usefixtures("in_one_process")
def test_a_step_that_does_not_fit_is_told_and_the_others_are_planned(monkeypatch):
    config, compile_step = bare_config(), compiling.compile_step

    def refuse_large(step, target, batch):
        if target.chip:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: exceeds available HBM (15.75G)")
        return compile_step(step, target, batch)

    target = targets.Target("v5e:2x2", TPUS["v5e"], (2, 2), [None] * 4)
    find = targets.find_target
    monkeypatch.setattr(compiling, "compile_step", refuse_large)
    for module in (compiling, scaling):
        monkeypatch.setattr(
            module, "find_target", lambda name: find(name) if name == "cpu" else target
        )
    rows = scaling.make_plan(config, ["v5e:2x2", "cpu"], 100, largest=False, measured=False)
    described = plan_report.describe(config, "tiny", rows, 100, "--slices", "python -m …")
    plan_report.show(described)
    text = plan_report.markdown(described)
    assert "| v5e:2x2 | weak, strong | 8 | – |" in text
    assert "v5e:2x2, batch 8: RESOURCE_EXHAUSTED: exceeds available HBM (15.75G)" in text
    assert rows[1].compiled.flops > 0
    refused, compiled, _ = described.to_json()["rows"]
    assert refused == {
        "scaling": ["weak", "strong"], "topology": "v5e:2x2", "batch": 8, "chips": 4,
        "refused": "RESOURCE_EXHAUSTED: exceeds available HBM (15.75G)",
    }  # fmt: skip
    assert compiled["chip"] == "cpu"
    assert "measured" not in compiled


def test_a_report_is_kept_and_used_for_the_same_step_alone(monkeypatch, tmp_path):
    config, compiled = bare_config(data__cache=str(tmp_path)), []

    def compile_step(function, config, name, batch):
        compiled.append((name, batch))
        return make_report(topology=name, batch=batch)

    monkeypatch.setattr(kept, "in_subprocess", compile_step)
    first = kept.reported(config, "v5e:2x2", 16)
    assert kept.reported(config, "v5e:2x2", 16) == first == make_report(topology="v5e:2x2")
    assert len(compiled) == 1
    kept.reported(config, "v5e:2x2", 32)
    kept.reported(config, "v6e:2x2", 16)
    kept.reported(bare_config(data__cache=str(tmp_path), train__seed=1), "v5e:2x2", 16)
    monkeypatch.setattr(kept, "versions", lambda packages: {"libtpu": "0"})
    kept.reported(config, "v5e:2x2", 16)
    assert len(compiled) == 5
    for file in (tmp_path / "plans").iterdir():
        file.write_text("{", encoding="utf-8")  # damaged
    assert kept.reported(config, "v5e:2x2", 16) == first
    assert len(compiled) == 6


def test_a_compiler_that_is_killed_is_one_error():
    assert compiling.in_subprocess(dict, [("process", "own")]) == {"process": "own"}
    with pytest.raises(
        UserError, match="compiler was killed, probably because the machine ran out of memory"
    ):
        compiling.in_subprocess(os._exit, 137)


def test_the_plan_of_the_cpu_agrees_with_a_measured_step():
    (row,) = scaling.make_plan(bare_config(), ["cpu"], 100, largest=False, measured=True)
    report = row.compiled
    measured, memory = report.measured, report.memory_bytes
    assert memory.arguments == pytest.approx(measured.argument_bytes, rel=0.02)
    assert memory.temporaries > 0
    assert measured.step_seconds > 0
    convolution = 2 * 8 * 32 * 32 * 3 * 3 * 4 * 4  # one of those at full size
    assert report.flops > convolution
    # A step is not faster than its FLOPs, but the rate of one product is no law.
    assert report.flops / measured.step_seconds < 4 * measured.matmul_flops
    assert report.collectives == {}
    assert row.to_json()["measured"]["step_seconds"] == measured.step_seconds


def test_a_plan_needs_no_weights():
    config = small_config(critic__weights="imagenet")
    step = compiling.make_step(config, "cpu")
    assert step.config.critic.weights == "random"
    assert step.state.critic is not None
    assert config.critic.weights == "imagenet"


def test_a_batch_that_the_first_topology_cannot_share_is_refused(monkeypatch):
    target = targets.Target("v5e:2x2", TPUS["v5e"], (2, 2), [None] * 4)
    monkeypatch.setattr(scaling, "find_target", lambda name: target)
    with pytest.raises(UserError, match="6 cannot be shared evenly by the 4 chips"):
        scaling.make_plan(small_config(train__batch_size=6), ["v5e:2x2"], 1, largest=False,
                       measured=False)  # fmt: skip


def test_the_files_say_that_they_are_estimates(tmp_path):
    rows = [
        make_row(),
        make_row(("weak",), (16, 16), topology="v5e:16x16", chips=256, batch=1024),
    ]
    described = plan_report.describe(
        Config(), "configs/cross_pre.py", rows, 800, "--slices", "python -m crlm_jax.plan"
    )
    plan_report.write(described, tmp_path / "plan")
    text = (tmp_path / "plan" / "plan.md").read_text(encoding="utf-8")
    assert "v5e:16x16" in text
    assert "compiler estimate" in text
    saved = json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8"))
    assert saved["label"] == "compiler estimate"
    assert saved["rows"][0]["efficiency"] == 1
    assert 0.5 < saved["rows"][1]["efficiency"] < 1
    documented = json.loads(DOCUMENTED_GPUS.read_text(encoding="utf-8"))
    assert list(saved) == list(documented)  # the format of earlier plans
    assert [list(row) for row in saved["rows"]] == [list(row) for row in documented["rows"][:2]]
    assert (tmp_path / "plan" / "plan.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "plan" / "thesis.tex").touch()
    with pytest.raises(UserError, match="something else"):
        plan_report.check_out(tmp_path / "plan")


def test_the_command_ends_with_one_line_on_a_wrong_topology():
    words = ["--config", "configs/cross_pre.py", "--topology", "v9:2x2"]
    done = subprocess.run(
        [sys.executable, "-m", "crlm_jax.plan", *words], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: topology 'v9:2x2': the chips are v4")
    assert done.stderr.count("\n") == 1


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "count"), [("v5e:1x1", 1), ("v5e:16x16", 256), ("v6e:4x4", 16), ("v4:2x2x1", 4)]
)
def test_a_chip_of_a_topology_is_one_device(name, count):
    assert len(targets.find_target(name).devices) == count


@needs_libtpu
def test_a_slice_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="v5e:3x5: the TPU compiler refuses it"):
        targets.find_target("v5e:3x5")


def test_the_documented_plan_scales_in_work_and_says_when_and_with_what():
    documented = json.loads(DOCUMENTED.read_text(encoding="utf-8"))
    few, many = documented["rows"][:2]
    assert (few["topology"], few["chips"], few["batch"]) == ("v5e:2x2", 4, 16)
    assert (many["topology"], many["chips"], many["batch"]) == ("v5e:16x16", 256, 1024)
    assert many["flops"] == pytest.approx(few["flops"], rel=0.01)
    assert {row["chip"] for row in documented["rows"]} == {"v5e", "v6e", "v5p"}
    config = from_json(json.dumps(documented["config"]), "docs/results/plan.json")
    changed = {text.split(":")[0] for text in differences(config, get_config("scale=paper"))}
    assert changed == {"train.precision"}  # what the command gives; all else is today's default
    assert {row["collectives"]["all-reduce"]["count"] for row in documented["rows"]} == {37}
    text = DOCUMENTED.with_suffix(".md").read_text(encoding="utf-8")
    assert documented["command"] in text
    said = f"{documented['date']}; " + ", ".join(
        f"{name} {version}" for name, version in documented["versions"].items()
    )
    assert said in text
    assert text.count("compiler estimate") >= 3


@needs_cuda_compiler
def test_the_command_plans_for_gpus_that_are_not_there(tmp_path):
    words = ["--config=configs/cross_pre.py", "--topology=h100,h100:2", f"--out={tmp_path}/plan"]
    small = [
        "data.image_size=32",
        "segmenter.name=unet",
        "segmenter.widths=(4,8)",
        "loss.stages=()",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "crlm_jax.plan", *words, *(f"--config.{text}" for text in small)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["topology"], row["batch"]) for row in rows] == [
        ("h100:1", 8), ("h100:2", 16), ("h100:2", 8),
    ]  # fmt: skip
    for row in rows:
        assert row["flops"] == pytest.approx(row["useful_flops"], rel=0.3)
        assert 0 < row["memory_bytes"]["total"] < GPUS["h100"].hbm_bytes
        assert 0 < row["compute_seconds"] < 1e-3
    assert rows[0]["collectives"] == {}
    assert rows[0]["latency_seconds"] == 0
    assert rows[1]["collectives"]["all-reduce"]["bytes"] > 4 * 1000


def test_the_documented_plan_of_gpus_is_on_its_page():
    documented = json.loads(DOCUMENTED_GPUS.read_text(encoding="utf-8"))
    text = DOCUMENTED.with_suffix(".md").read_text(encoding="utf-8")
    assert documented["command"] in text
    for row in documented["rows"]:
        found = f"| {row['topology']} | {', '.join(row['scaling'])} | {row['batch']:,} |"
        assert f"{found} {1e3 * row['compute_seconds']:.3g} |" in text
        assert f"{found} {row['memory_bytes']['total'] / 2**20:,.0f} |" in text
        # XLA's own count of the plain step, and the count of the kernels.
        assert row["flops"] == pytest.approx(row["useful_flops"], rel=0.02)
    one, eight = documented["rows"][:2]
    assert eight["flops"] == pytest.approx(one["flops"], rel=0.01)


@needs_libtpu
@pytest.mark.slow
def test_weak_scaling_keeps_the_flops_of_a_chip():
    names = ["v5e:2x2", "v5e:4x4"]
    few, many = scaling.make_plan(bare_config(), names, 100, largest=False, measured=False)
    assert (few.chips, few.batch, few.scaling) == (4, 8, ("weak", "strong"))
    assert (many.chips, many.batch, many.scaling) == (16, 32, ("weak",))
    assert many.compiled.flops == pytest.approx(few.compiled.flops, rel=0.01)
    for row in (few, many):
        assert 0 < row.compiled.memory_bytes.total < TPUS["v5e"].hbm_bytes
        assert row.compiled.cycles > 0
        # Every gradient crosses the chips, in float32, besides the statistics of batch norm.
        assert row.compiled.collectives["all-reduce"].bytes > 4 * 1000
