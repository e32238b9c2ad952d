#!/usr/bin/env bash
# The GPU kit: measures crlm_jax on a bare machine with one NVIDIA GPU, JAX, and no network.
#
#   bash tests/benchmarks/gpu.sh prepare [PYTHON_VERSION]    where there is a network (default 3.12);
#       with --without NAME … it leaves out packages that the machine has
#   bash tests/benchmarks/gpu.sh run --out FOLDER [options]  on the machine with the GPU
#
# `prepare` fetches the wheels that such a machine lacks into gpu-wheels/ (WHEELS names another
# folder); carry that along with the checkout. PYTHON names the interpreter, python3 by default.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
wheels=${WHEELS:-gpu-wheels}
python=${PYTHON:-python3}
action=${1:-}
[ $# -gt 0 ] && shift

case "$action" in
prepare)
    exec "$python" tests/benchmarks/gpu_kit/wheels.py fetch "$wheels" --python "${1:-3.12}" "${@:2}"
    ;;
run)
    version=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
    target=${SITE:-build/gpu/site-$version}
    "$python" tests/benchmarks/gpu_kit/wheels.py install "$wheels" "$target"
    target=$(realpath "$target")
    export PYTHONPATH="$PWD:$target${PYTHONPATH:+:$PYTHONPATH}"
    exec "$python" -m tests.benchmarks.gpu "$@"
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
