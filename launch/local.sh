#!/usr/bin/env bash
# The quickstart: installs if needed, prepares the embedded scenes, trains all three objectives, evaluates and exports.
#   ./launch/local.sh [WORKDIR] [--config.key=value ...]      default WORKDIR: runs/quickstart in the checkout
# Rerunning the same command resumes.
set -euo pipefail

case "${1:-}" in
  -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORKDIR=$(dirname "$HERE")/runs/quickstart
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
  WORKDIR=$(realpath -m "$1")
  shift
fi
# A GPU that works is used: nvidia-smi fails where there is only its program.
EXTRAS=base MEANT=()
if [ -z "${JAX_PLATFORMS:-}" ] && nvidia-smi --list-gpus > /dev/null 2>&1; then
  EXTRAS=cuda MEANT=(--config.mesh.platform=gpu)
fi
# shellcheck source=launch/environment.sh
. "$HERE/environment.sh" "$EXTRAS"
cd "$ROOT"

"$PYTHON" -m tools.prepare scenes --output runs/data/scenes
"$PYTHON" -m harmopower.train --config configs/scenes.py --workdir "$WORKDIR" "${MEANT[@]}" "$@"
"$PYTHON" -m tools.export --workdir "$WORKDIR" --format huggingface --output "$WORKDIR/export"
