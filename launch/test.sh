#!/usr/bin/env bash
# Runs the tests, installing what they need:   ./launch/test.sh [pytest arguments]
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/environment.sh
. "$HERE/environment.sh" test
cd "$ROOT"

export JAX_PLATFORMS=cpu
# The tests compile much and run little: machine code of no quality is made in half the time, and XLA's older emitters
# make it in a third of that (of a train step of the tests 4 s of processor time where the newer ones took 12).
FAST="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
export XLA_FLAGS="$FAST ${XLA_FLAGS:-}"
# A worker that dies takes its file with it, and the rest would wait for it for ever: the run ends, and names the test.
RUN=("$PYTHON" -m pytest --quiet --numprocesses 2 --dist loadfile --max-worker-restart 0)
"${RUN[@]}" --ignore-glob='*_multi_device.py' "$@"
# Eight devices are asked for before jax starts, so these files have processes of their own. Scheduled for concurrency, a
# step on a mesh of (4, 2) that was so compiled waited for its own collectives for ever (three runs of three).
EIGHT="--xla_force_host_platform_device_count=8 --xla_cpu_enable_concurrency_optimized_scheduler=false"
XLA_FLAGS="$EIGHT $XLA_FLAGS" "${RUN[@]}" tests/*/test_*_multi_device.py "$@"
