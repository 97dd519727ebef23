#!/usr/bin/env bash
# Lint, format and types, in the pinned versions, installing what they need:   ./launch/lint.sh
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/environment.sh
. "$HERE/environment.sh" test
cd "$ROOT"

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# It would ask the package index whether there is a newer one.
PYRIGHT_PYTHON_IGNORE_WARNINGS=1 "$PYTHON" -m pyright --pythonpath "$PYTHON"
