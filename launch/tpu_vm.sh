#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod: copies this commit to every worker, installs, starts the same command on each:
#   ./launch/tpu_vm.sh TPU_NAME ZONE --config configs/NAME.py --workdir DIR [--config.key=value ...]
#   ./launch/tpu_vm.sh TPU_NAME ZONE follow       shows the log of the first worker
#   ./launch/tpu_vm.sh TPU_NAME ZONE stop         saves and stops; the first form, run again, goes on from there
# DIR and config.data.source must be the same files on all workers, such as a bucket mounted with gcsfuse. The run
# outlives this terminal.
set -euo pipefail

case "${1:-}" in
  -h | --help) sed -n '2,7s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
if [ $# -lt 3 ]; then
  echo "error: give TPU_NAME, ZONE and the flags of harmopower.train, or follow, or stop (see --help)" >&2
  exit 2
fi
NAME=$1 ZONE=$2
shift 2

on_workers() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"; }

case "$1" in
  follow) on_workers 0 "tail -n 50 -F harmopower.log"; exit ;;
  # The bracket keeps the pattern from matching the shell that carries it.
  stop) on_workers all "pkill -TERM -f '[h]armopower.train' || true"; exit ;;
esac

ARCHIVE=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$ARCHIVE"' EXIT
git -C "$(dirname "${BASH_SOURCE[0]}")/.." archive --format=tar.gz --output="$ARCHIVE" HEAD

# Collectives that overlap with matrix products, by libtpu's own flags (README, GPU and TPU).
LIBTPU_FLAGS="--xla_enable_async_all_gather=true --xla_tpu_enable_async_collective_fusion=true \
--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true \
--xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true \
--xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true"

FLAGS=$(printf '%q ' "$@")
REMOTE="set -eu
if pgrep -f '[h]armopower.train' > /dev/null; then echo 'error: a run is under way; stop it first' >&2; exit 2; fi
mkdir -p harmopower && tar -xzf harmopower.tar.gz -C harmopower && cd harmopower
command -v python3.14 python3.13 python3.12 python3.11 > /dev/null ||
  { sudo apt-get -qq update; sudo apt-get -qq install -y python3.11-venv; }
. launch/environment.sh tpu
export LIBTPU_INIT_ARGS=\"$LIBTPU_FLAGS \${LIBTPU_INIT_ARGS:-}\"
export HARMOPOWER_DISTRIBUTED=1 # nothing in a TPU VM's environment says that there are other workers
setsid nohup \"\$PYTHON\" -m harmopower.train --config.mesh.platform=tpu $FLAGS > ../harmopower.log 2>&1 < /dev/null &"

gcloud compute tpus tpu-vm scp "$ARCHIVE" "$NAME:harmopower.tar.gz" --zone="$ZONE" --worker=all
on_workers all "bash -c $(printf '%q' "$REMOTE")"
echo "started on all workers of $NAME; watch it with: $0 $NAME $ZONE follow"
