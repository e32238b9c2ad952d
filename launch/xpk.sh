#!/usr/bin/env bash
# A run on one or several TPU slices of a cluster that xpk made.
#
#   CLUSTER=tpus IMAGE=REGISTRY/crlm:tpu STORAGE=crlm launch/xpk.sh crlm-cross-pre \
#       --config configs/cross_pre.py:scale=paper …
#
# Of the environment: CLUSTER, IMAGE (built with PLATFORM=tpu) and STORAGE (made known to xpk by
# `xpk storage attach`) are needed; TPU, SLICES, PROJECT and ZONE have the defaults below, the last
# two gcloud's.
set -euo pipefail

if [ $# -lt 2 ] || [ -z "${CLUSTER:-}" ] || [ -z "${IMAGE:-}" ] || [ -z "${STORAGE:-}" ]; then
  echo "usage: CLUSTER=… IMAGE=… STORAGE=… $0 NAME FLAGS-OF-crlm_jax.main" >&2
  exit 1
fi
name=$1
shift

where=()
if [ -n "${PROJECT:-}" ]; then where+=(--project="$PROJECT"); fi
if [ -n "${ZONE:-}" ]; then where+=(--zone="$ZONE"); fi

# exec: xpk's own shell sends SIGTERM to what it started, which so is the program itself.
printf -v command '%q ' exec python -m crlm_jax.main --distributed "$@"

# xpk gives up at once after an exit code that it is not told of, and counts every restart, those
# after 75 (saved, start again) too: hence the many.
exec xpk workload create ${where[@]+"${where[@]}"} \
  --cluster="$CLUSTER" \
  --workload="$name" \
  --tpu-type="${TPU:-v5litepod-16}" \
  --num-slices="${SLICES:-1}" \
  --docker-image="$IMAGE" \
  --storage="$STORAGE" \
  --restart-on-exit-codes=75 \
  --max-restarts=100 \
  --termination-grace-period-seconds=120 \
  --command="${command% }"
