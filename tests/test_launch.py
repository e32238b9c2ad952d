"""The launch files, as far as a machine without a cluster can check them."""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from absl import flags
from absl.testing import flagsaver
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

import crlm_jax.main  # noqa: F401, it defines the flags of a run
from crlm_jax.config.flags import flagged_config, parse_flags
from crlm_jax.config.schema import Config, validate
from crlm_jax.serve import command as serve_command
from crlm_jax.study import runs as study_runs

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = ("slurm.sbatch", "xpk.sh")
JOBSETS = ("jobset-gpu.yaml", "jobset-tpu.yaml")
FLAGS = ["--config", "configs/ct.py:method=unet", "--workdir", "runs/with space"]
START_AGAIN = 75

# Keeps its arguments; then exits with CODE or, with WAIT, takes signals as srun does: USR1 goes to
# the program, which needs a while to save, and TERM kills it.
SRUN = """#!/usr/bin/env bash
printf '%s\\0' "$@" > "$OUT/srun"
if [ -z "${WAIT:-}" ]; then exit "${CODE:-0}"; fi
trap 'sleep 0.3; exit 75' USR1
trap 'exit 137' TERM
touch "$OUT/ready"
for _ in {1..600}; do sleep 0.05; done
"""
KEEP = """#!/usr/bin/env bash
printf '%s\\0' "$@" > "$OUT/${0##*/}"
"""


# -- the program's own parser ---------------------------------------------------------------------


def parse(arguments: list[str]) -> tuple[Config, dict]:
    """Parses flags as `crlm_jax.main` does; returns the config and the other flags."""
    with flagsaver.flagsaver(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main", *arguments])  # the overrides of a config are read there
        assert len(parse_flags(sys.argv)) == 1, "all are flags"
        config = flagged_config()
        names = ("workdir", "distributed", "coordinator", "processes", "process")
        return validate(config), {name: flags.FLAGS[name].value for name in names}


def after(words: list[str], program: str) -> list[str]:
    """What stands after a program's name."""
    return words[words.index(program) + 1 :]


def readme_commands() -> list[list[str]]:
    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture
def at_root(monkeypatch):
    """Paths of experiments are relative to the project."""
    monkeypatch.chdir(ROOT)


def test_every_command_of_the_readme_is_understood(at_root):
    seen = set()
    for words in readme_commands():
        starts = {"launch/slurm.sbatch": 0, "launch/xpk.sh": 1, "crlm:cuda": 0, "crlm_jax.main": 0}
        for start, names in starts.items():
            arguments = after(words, start)[names:] if start in words else []
            if arguments and "build" not in words:
                parse(arguments)
                seen.add(start)
        if "crlm_jax.study" in words:
            options = dict(itertools.pairwise(words))
            assert study_runs.load_study(options["--study"], Path(options["--workdir"]))
            seen.add("crlm_jax.study")
        for assignment in words:
            if assignment.startswith("STUDY="):
                runs = study_runs.load_study(assignment.removeprefix("STUDY="), Path("runs"))
                (array,) = (word for word in words if word.startswith("--array="))
                assert array.startswith(f"--array=0-{len(runs) - 1}"), "as many tasks as runs"
                seen.add("array")
    assert seen == {*starts, "crlm_jax.study", "array"}


def test_files_named_in_the_readme_are_there():
    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"launch/([\w.-]+)", text))
    assert named <= {path.name for path in LAUNCH.iterdir()}
    assert named >= {*SCRIPTS, *JOBSETS, "Dockerfile"}


# -- SLURM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_shell_scripts_are_sound(name):
    shellcheck = shutil.which("shellcheck", path=sysconfig.get_path("scripts")) or "shellcheck"
    found = subprocess.run([shellcheck, LAUNCH / name], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    subprocess.run(["bash", "-n", LAUNCH / name], check=True)


@pytest.fixture
def stand_ins(tmp_path) -> dict[str, str]:
    """Environment in which `srun`, `scontrol` and `xpk` only keep what they are asked for."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": KEEP, "xpk": KEEP}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "OUT": str(tmp_path), "SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2"}


def asked(env: dict[str, str], program: str) -> list[str] | None:
    """Arguments that a stand-in was called with; None where it was not."""
    path = Path(env["OUT"]) / program
    return path.read_text().split("\0")[:-1] if path.exists() else None


def submit(env: dict[str, str], *arguments: str, **more: str) -> subprocess.CompletedProcess:
    command = ["bash", str(LAUNCH / "slurm.sbatch"), *arguments]
    return subprocess.run(command, env=env | more, capture_output=True, text=True, timeout=60)


def test_slurm_job_starts_main_in_every_process(stand_ins, at_root):
    done = submit(stand_ins, *FLAGS, SLURM_CPUS_PER_TASK="8", PYTHON="/venv/bin/python")
    assert done.returncode == 0, done.stderr
    words = asked(stand_ins, "srun")
    assert words[: words.index("-m") + 2] == [
        "--kill-on-bad-exit=0", "--wait=0", "--cpus-per-task=8",
        "/venv/bin/python", "-m", "crlm_jax.main",
    ]  # fmt: skip
    config, given = parse(after(words, "crlm_jax.main"))
    assert (config.method, given["workdir"], given["distributed"]) == (
        "unet", "runs/with space", True,
    )  # fmt: skip
    assert asked(stand_ins, "scontrol") is None


def test_slurm_options_agree_with_the_program():
    text = (LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", text, re.MULTILINE))
    # JAX gives a process the one GPU of its number on the node.
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert "requeue" in options
    assert re.fullmatch(r"B:USR1@\d+", options["signal"])
    devices = int(options["nodes"]) * int(options["gpus-per-node"])
    assert Config().train.batch_size % devices == 0


def test_saved_slurm_job_is_requeued(stand_ins):
    assert submit(stand_ins, *FLAGS, CODE=str(START_AGAIN)).returncode == START_AGAIN
    assert asked(stand_ins, "scontrol") == ["requeue", "17"]


@pytest.mark.parametrize("code", [1, 134])
def test_failed_slurm_job_stays_failed(stand_ins, code):
    assert submit(stand_ins, *FLAGS, CODE=str(code)).returncode == code
    assert asked(stand_ins, "scontrol") is None


@pytest.mark.parametrize(
    ("sent", "requeued"),
    [
        ([signal.SIGUSR1], True),  # the time is nearly up
        ([signal.SIGUSR1, signal.SIGUSR1], True),
        ([signal.SIGTERM], False),  # cancelled, or preempted: then SLURM requeues it
    ],
)
def test_signals_reach_the_program_and_are_waited_for(stand_ins, sent, requeued):
    command = ["bash", str(LAUNCH / "slurm.sbatch"), *FLAGS]
    with subprocess.Popen(command, env=stand_ins | {"WAIT": "1"}) as job:
        until = time.monotonic() + 30
        while not (Path(stand_ins["OUT"]) / "ready").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        for number in sent:
            job.send_signal(number)  # to the script alone, as `--signal=B:` does
            time.sleep(0.1)
        assert job.wait(timeout=30) == START_AGAIN
    assert asked(stand_ins, "scontrol") == (["requeue", "17"] if requeued else None)


def test_task_of_an_array_runs_its_share_of_a_study(stand_ins, at_root):
    array = {"SLURM_JOB_NUM_NODES": "1", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "5"}
    named = {"STUDY": "configs/studies/stages.py:seeds=1", "WORKDIR": "runs/stages"}
    done = submit(stand_ins, **array, **named, CODE=str(START_AGAIN))
    assert done.returncode == START_AGAIN, done.stderr
    words = asked(stand_ins, "srun")
    assert {"--nodes=1", "--ntasks=1"} <= set(words)
    assert after(words, "crlm_jax.study") == [
        "--study", named["STUDY"], "--workdir", named["WORKDIR"], "--index", "5",
    ]  # fmt: skip
    assert len(study_runs.load_study(named["STUDY"], Path(named["WORKDIR"]))) > 5
    # The plain number of a task may be that of the array, and would requeue all its tasks.
    assert asked(stand_ins, "scontrol") == ["requeue", "17_5"]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"WORKDIR": "runs/stages", "SLURM_ARRAY_TASK_ID": "0"}, "--nodes=1"),
        ({"WORKDIR": "runs/stages", "SLURM_JOB_NUM_NODES": "1"}, "--array"),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_NUM_NODES": "1"}, "WORKDIR"),
    ],
)
def test_study_without_what_it_needs_is_an_error(stand_ins, env, message):
    done = submit(stand_ins, STUDY="configs/studies/stages.py", **env)
    assert done.returncode == 1
    assert message in done.stderr
    assert asked(stand_ins, "srun") is None


# -- Kubernetes -----------------------------------------------------------------------------------


def read_jobset(name: str) -> dict:
    return yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))


def lost(given, kept, where: str = "") -> list[str]:
    """Fields of `given` that did not survive in `kept`; defaults may have come to it."""
    if isinstance(given, dict):
        kept = kept if isinstance(kept, dict) else {}
        parts = ((v, kept.get(k), f"{where}.{k}") for k, v in given.items())
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        parts = ((v, w, f"{where}[{i}]") for i, (v, w) in enumerate(zip(given, kept, strict=True)))
    else:
        return [] if given == kept else [where]
    return [field for part in parts for field in lost(*part)]


def unknown_fields(jobset: dict) -> list[str]:
    """Fields that JobSet's schema does not know; raises where a type is wrong or one is missing."""
    return lost(jobset, JobsetV1alpha2JobSet.from_dict(jobset).to_dict())


def only_job(jobset: dict) -> tuple[dict, dict, dict, dict]:
    """The replicated job of a JobSet, its job, its pod and the pod's container."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    return replicated, job, pod, container


@pytest.mark.parametrize("name", JOBSETS)
def test_jobset_fits_the_schema(name):
    jobset = read_jobset(name)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert unknown_fields(jobset) == []


def test_schema_finds_a_misspelt_field_and_a_wrong_type():
    jobset = read_jobset("jobset-gpu.yaml")
    only_job(jobset)[2]["terminationGraceSeconds"] = 1
    assert [field.rpartition(".")[2] for field in unknown_fields(jobset)] == [
        "terminationGraceSeconds"
    ]
    jobset = read_jobset("jobset-gpu.yaml")
    only_job(jobset)[1]["parallelism"] = "two"
    with pytest.raises(ValueError, match="parallelism"):
        unknown_fields(jobset)


def test_bucket_of_the_readme_fits_the_schema():
    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    (volume,) = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    jobset = read_jobset("jobset-gpu.yaml")
    pod = only_job(jobset)[2]
    (index,) = (i for i, other in enumerate(pod["volumes"]) if other["name"] == volume["name"])
    pod["volumes"][index] = volume
    assert unknown_fields(jobset) == []


@pytest.mark.parametrize("name", JOBSETS)
def test_jobset_starts_again_without_counting(name):
    jobset = read_jobset(name)
    _, job, pod, container = only_job(jobset)
    # Kubernetes has pod failure policies only with this restart policy.
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert job["podFailurePolicy"]["rules"] == [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": container["name"], "operator": "In", "values": [START_AGAIN],
            },
        },
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]  # fmt: skip
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert policy["restartStrategy"] == "BlockingRecreate"
    (rule,) = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"]), "JobSet's pattern"
    assert pod["terminationGracePeriodSeconds"] >= 120, "as long as SLURM's warning"


@pytest.mark.parametrize("name", JOBSETS)
def test_every_pod_of_a_jobset_starts_main(name, at_root):
    jobset = read_jobset(name)
    replicated, job, pod, container = only_job(jobset)
    assert container["command"] == ["python", "-m", "crlm_jax.main"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    (per_pod,) = container["resources"]["limits"].values()
    devices = replicated["replicas"] * job["parallelism"] * per_pod
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    for index in range(job["completions"]):
        words = [w.replace("$(JOB_COMPLETION_INDEX)", str(index)) for w in container["args"]]
        config, given = parse(words)
        assert given["distributed"]
        assert config.train.batch_size % devices == 0
        assert config.evaluation.batch_size % devices == 0
        for path in (config.data.cohort, config.data.cache, given["workdir"]):
            assert path.startswith(mounts["crlm"] + "/"), "on the shared volume"
        if name == "jobset-gpu.yaml":
            assert (given["process"], given["processes"]) == (index, job["completions"])
            host = f"{jobset['metadata']['name']}-{replicated['name']}-0-0"
            address = rf"{host}\.{jobset['metadata']['name']}:\d+"
            assert re.fullmatch(address, given["coordinator"])
        else:  # JAX finds them
            assert (given["coordinator"], given["processes"], given["process"]) == ("", 0, -1)


def test_hosts_of_the_tpu_slice_are_those_of_its_topology():
    _, job, pod, container = only_job(read_jobset("jobset-tpu.yaml"))
    across, down = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] * chips == int(across) * int(down)


# -- xpk ------------------------------------------------------------------------------------------


def test_xpk_starts_main_on_every_host(stand_ins, at_root):
    env = stand_ins | {"CLUSTER": "tpus", "IMAGE": "registry/crlm:tpu", "STORAGE": "crlm"}
    command = ["bash", LAUNCH / "xpk.sh", "crlm-ct", *FLAGS]
    subprocess.run(command, env=env | {"ZONE": "us-west4-a", "SLICES": "2"}, check=True)
    words = asked(env, "xpk")
    assert words[:2] == ["workload", "create"]
    options = dict(word.removeprefix("--").split("=", 1) for word in words[2:])
    program = shlex.split(options.pop("command"))
    assert options == {
        "zone": "us-west4-a",
        "cluster": "tpus",
        "workload": "crlm-ct",
        "tpu-type": "v5litepod-16",
        "num-slices": "2",
        "docker-image": "registry/crlm:tpu",
        "storage": "crlm",
        "restart-on-exit-codes": str(START_AGAIN),
        "max-restarts": "100",
        "termination-grace-period-seconds": "120",
    }
    assert program[:4] == ["exec", "python", "-m", "crlm_jax.main"]
    config, given = parse(program[4:])
    assert (config.method, given["workdir"], given["distributed"]) == (
        "unet", "runs/with space", True,
    )  # fmt: skip


def test_xpk_without_a_cluster_is_an_error(stand_ins):
    command = ["bash", LAUNCH / "xpk.sh", "crlm-ct", *FLAGS]
    done = subprocess.run(command, env=stand_ins, capture_output=True, text=True)
    assert (done.returncode, asked(stand_ins, "xpk")) == (1, None)
    assert "usage" in done.stderr


# -- container ------------------------------------------------------------------------------------


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments."""
    text = (LAUNCH / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def test_every_platform_is_an_extra_of_the_package():
    (install,) = (text for name, text in dockerfile() if name == "RUN" and "pip install" in text)
    platforms = dict(re.findall(r'(\w+)\) extra="\[([\w,]+)\]"', install))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert platforms == {"cpu": "gcs,pacs", "cuda": "cuda,gcs,pacs", "tpu": "tpu,gcs,pacs"}
    assert {"cuda", "gcs", "pacs", "tpu"} <= set(extras["optional-dependencies"])
    assert "-c constraints.txt" in install
    shell = install.replace("pip install", "echo")
    for platform, code in {"cpu": 0, "cuda": 0, "tpu": 0, "rocm": 1}.items():
        done = subprocess.run(
            ["sh", "-c", shell], env={"PLATFORM": platform}, capture_output=True, text=True
        )
        assert done.returncode == code
        assert code or done.stdout.split()[-1] == f"/wheel/*.whl[{platforms[platform]}]"


def test_image_holds_the_program_and_no_data():
    lines = dockerfile()
    copies = [text for name, text in lines if name == "COPY" and "--from=build" not in text]
    copied = [word for text in copies for word in text.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied)
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
    assert "*" in ignored, "all that is not named stays out"
    assert set(copied) == {word[1:] for word in ignored if word.startswith("!")}


def test_experiments_come_with_the_wheel_alone():
    lines = dockerfile()
    image = lines[[name for name, _ in lines].index("FROM", 1) :]
    copies = [text for name, text in image if name == "COPY"]
    assert copies == ["constraints.txt ./", "--from=build /wheel /wheel"]
    (install,) = (text for name, text in image if name == "RUN" and "pip install" in text)
    assert "/wheel/*.whl" in install


def test_image_does_not_run_as_root():
    lines = dockerfile()
    assert lines.index(("ARG", "RUN_AS=1000")) < lines.index(("USER", "$RUN_AS"))
    assert [name for name, _ in lines].count("USER") == 1
    security = only_job(read_jobset("jobset-gpu.yaml"))[2]["securityContext"]
    assert security["runAsUser"] == 1000


def test_image_starts_main():
    assert dockerfile()[-1] == ("ENTRYPOINT", '["python", "-m", "crlm_jax.main"]')


# -- the DICOM node -------------------------------------------------------------------------------


def test_compose_starts_orthanc_and_the_node_that_know_each_other():
    compose = yaml.safe_load((LAUNCH / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    node, orthanc = services["node"], json.loads((LAUNCH / "orthanc.json").read_text())
    assert node["entrypoint"] == ["python", "-m", "crlm_jax.serve"]
    args = serve_command._parse(node["command"])
    assert orthanc["DicomModalities"] == {args.ae: [args.ae, "node", args.port]}
    assert args.allowed == [orthanc["DicomAet"]]
    assert args.send_to == f"{orthanc['DicomAet']}@orthanc:{orthanc['DicomPort']}"
    targets = [
        volume.split(":")[-2 if volume.endswith(":ro") else -1] for volume in node["volumes"]
    ]
    assert targets == [args.run[0], str(args.spool)]
    assert "ports" not in node, "no one but Orthanc reaches it"
    assert all(port.startswith("127.0.0.1:") for port in services["orthanc"]["ports"])
    for volume in services["orthanc"]["volumes"]:
        source = volume.split(":")[0]
        assert (LAUNCH / source).is_file() or source in compose["volumes"]
    assert (LAUNCH / node["build"]["context"] / node["build"]["dockerfile"]).is_file()


def test_the_service_starts_the_node(tmp_path):
    text = (LAUNCH / "crlm-node.service").read_text(encoding="utf-8")
    (start,) = re.findall("^ExecStart=(.*)$", text, re.MULTILINE)
    python, *words = shlex.split(start)
    assert words[:2] == ["-m", "crlm_jax.serve"]
    serve_command._parse(words[2:])
    assert f"SuccessExitStatus={START_AGAIN}" in text
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    unit = tmp_path / "crlm-node.service"
    unit.write_text(text.replace(python, sys.executable))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
