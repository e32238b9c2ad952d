"""The wheels that a bare machine with JAX lacks: fetched here, installed there without a network.

    python tests/benchmarks/gpu_kit/wheels.py fetch gpu-wheels --python 3.12
    python tests/benchmarks/gpu_kit/wheels.py install gpu-wheels TARGET

JAX brings NumPy, SciPy, ml_dtypes and opt_einsum, so these are not fetched. Large wheels are kept
as `.whl.xz`, at half their size, so that all stay below `MOST_BYTES`. What only the report needs
(matplotlib, Jinja, Pillow) is left out: a training there ends without a report if the machine has
none. Only Python's own library is used here.
"""

import argparse
import lzma
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[3]
MOST_BYTES = 60_000_000
LARGE = 1_000_000  # bytes; a smaller wheel is kept as it is
GLIBC = (5, 12, 17, 24, 27, 28, 31, 34)  # versions 2.N that a wheel may ask for

STEP = """
    absl-py etils filelock flatbuffers flax fsspec lazy-loader msgpack optax pyyaml rich
    markdown-it-py mdurl safetensors treescope typing_extensions
"""
PIPELINE = """
    SimpleITK array_record attrs certifi cloudpickle dm-tree grain humanize idna immutabledict
    portpicker protobuf psutil pydicom requests six tensorflow-datasets tensorflow-metadata toml
    tqdm urllib3 wrapt zipp
"""
TRAINING = """
    aiofiles ml_collections nest_asyncio orbax-checkpoint packaging prometheus_client simplejson
    tensorstore
"""
OLD_FLAX = "flax==0.12.8"  # the last for JAX 0.10; it does not work with JAX 0.11.2
SOURCES = ("promise",)  # published without a wheel; pure Python
# Read by x86 machine code: jumps with absolute targets repeat, and so compress better.
FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 26}]


def fetch(folder: Path, python: str, without: Collection[str] = ()) -> int:
    """Downloads all wheels for Linux on x86-64 and packs them; returns the bytes of the folder.

    Args:
      folder: of the wheels; those in it are replaced.
      python: version that they are for, such as 3.12.
      without: names that the machine has.

    Raises:
      SystemExit: a wheel cannot be had, or the folder is too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    for old in [*folder.glob("*.whl"), *folder.glob("*.whl.xz")]:
        old.unlink()
    systems = [f"--platform=manylinux_2_{n}_x86_64" for n in GLIBC]
    systems += [f"--platform=manylinux{name}_x86_64" for name in ("1", "2010", "2014")]
    common = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    names = [name for name in f"{STEP} {PIPELINE} {TRAINING}".split() if name not in without]
    with tempfile.TemporaryDirectory() as place:
        limits = Path(place) / "constraints.txt"
        limits.write_text(_constraints())
        fetched = [
            "download", *common, f"--dest={place}", f"--constraint={limits}",
            f"--python-version={python}", "--implementation=cp", "--only-binary=:all:", *systems,
        ]  # fmt: skip
        pip(*fetched, *names)
        pip(*fetched, OLD_FLAX)
        pip("wheel", *common, f"--wheel-dir={place}", *SOURCES)
        for wheel in sorted(Path(place).glob("*.whl")):
            pack(wheel, folder)
    (folder / "python").write_text(python)
    size = size_of(folder)
    if size > MOST_BYTES:
        for wheel in folder.glob("tensorstore-*"):
            wheel.unlink()
        print(f"{size / 1e6:.1f} MB are too much: left tensorstore out, so --train will not run")
        size = size_of(folder)
    if size > MOST_BYTES:
        raise SystemExit(f"{folder} has {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}")
    return size


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _constraints() -> str:
    """The versions that the tests passed with, of what the step and its input are made of.

    Not of Flax: its newest version needs JAX 0.11, and one for JAX 0.10 is carried too.
    """
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = {"optax", "grain", "orbax-checkpoint", "tensorflow-datasets", "array_record"}
    return "\n".join(line for line in lines if line.partition("==")[0] in kept)


def pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip {words[0]} failed:\n{(done.stderr or done.stdout)[-2000:]}")


def pack(wheel: Path, folder: Path) -> Path:
    """Puts a wheel into the folder; a large one without its own compression, and that by xz."""
    if wheel.stat().st_size < LARGE:
        return Path(shutil.copy(wheel, folder))
    stored = wheel.with_suffix(".stored")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(stored, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            item.compress_type = zipfile.ZIP_STORED
            target.writestr(item, content)
    packed = folder / f"{wheel.name}.xz"
    with stored.open("rb") as source, lzma.open(packed, "wb", filters=FILTERS) as target:
        shutil.copyfileobj(source, target, 1 << 22)
    stored.unlink()
    return packed


def unpack(folder: Path, place: Path) -> list[Path]:
    """Puts all wheels of the folder as wheels into `place`."""
    wheels = [Path(shutil.copy(wheel, place)) for wheel in sorted(folder.glob("*.whl"))]
    for packed in sorted(folder.glob("*.whl.xz")):
        wheels.append(place / packed.stem)
        with lzma.open(packed) as source, wheels[-1].open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 22)
    return wheels


def without_other_flax(wheels: list[Path]) -> list[Path]:
    """Leaves the newest Flax that works with the JAX of this machine.

    Raises:
      SystemExit: this Python has no JAX, or one that is too old for each.
    """
    try:
        here = numbers(metadata.version("jax"))
    except metadata.PackageNotFoundError:
        raise SystemExit(f"{sys.executable} has no JAX; PYTHON names another Python") from None
    found = [wheel for wheel in wheels if wheel.name.startswith("flax-")]
    fitting = [wheel for wheel in found if needed_jax(wheel) <= here]
    if found and not fitting:
        raise SystemExit(f"JAX {metadata.version('jax')} is too old; 0.10 or 0.11 is needed")
    newest = max(fitting, key=lambda wheel: numbers(wheel.name.split("-")[1]), default=None)
    return [wheel for wheel in wheels if wheel not in found or wheel == newest]


def needed_jax(wheel: Path) -> tuple[int, ...]:
    """The least version of JAX that a wheel asks for."""
    with zipfile.ZipFile(wheel) as content:
        name = next(name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        asked = re.search(r"^Requires-Dist: jax>=([\d.]+)", content.read(name).decode(), re.M)
    return numbers(asked[1]) if asked else ()


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def install(folder: Path, target: Path) -> int:
    """Installs the folder's wheels into `target`, for PYTHONPATH; returns how many.

    Without a network, and without what they depend on: all of that is in the folder or JAX's. What
    was installed before stays if it was whole.

    Raises:
      SystemExit: the folder is empty, or its wheels are for another Python.
    """
    done = target / "installed"  # the names of the wheels
    packed = sorted(path.name for path in folder.glob("*.whl*"))
    if not packed:
        raise SystemExit(f"{folder} has no wheels: run `gpu.sh prepare` where there is a network")
    if done.exists() and done.read_text().split() == packed:
        return len(packed)
    wanted, here = (folder / "python").read_text(), "{}.{}".format(*sys.version_info)
    if wanted != here:
        raise SystemExit(f"{folder} is for Python {wanted}, and {sys.executable} is {here}")
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        wheels = without_other_flax(unpack(folder, Path(place)))
        pip(
            "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
            "--no-compile", "--no-cache-dir", f"--find-links={place}", f"--target={target}",
            *map(str, wheels),
        )  # fmt: skip
    done.write_text("\n".join(packed))
    return len(packed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    one = actions.add_parser("fetch")
    one.add_argument("folder", type=Path)
    one.add_argument("--python", default="3.12", help="of the bare machine, such as 3.12")
    one.add_argument("--without", nargs="+", default=(), help="packages that the machine has")
    two = actions.add_parser("install")
    two.add_argument("folder", type=Path)
    two.add_argument("target", type=Path)
    args = parser.parse_args()
    if args.action == "fetch":
        size = fetch(args.folder, args.python, args.without)
        print(f"{args.folder}: {size / 1e6:.1f} MB for Python {args.python}, Linux on x86-64")
    else:
        print(f"{install(args.folder, args.target)} packages in {args.target}", file=sys.stderr)


if __name__ == "__main__":
    main()
