#!/usr/bin/env bash
# Runs the tests, installing what they need:   ./launch/test.sh [pytest arguments]
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/environment.sh
. "$HERE/environment.sh" test
cd "$ROOT"

export JAX_PLATFORMS=cpu
"$PYTHON" -m pytest --quiet --numprocesses 2 --dist loadfile --ignore-glob='*_multi_device.py' "$@"
# Eight devices are asked for before jax starts, so these files have a process of their own.
XLA_FLAGS="--xla_force_host_platform_device_count=8 ${XLA_FLAGS:-}" \
  "$PYTHON" -m pytest --quiet tests/*/test_*_multi_device.py "$@"
