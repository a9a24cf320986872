#!/usr/bin/env bash
# Lint, types, doctests, README blocks and tests. `--slow` runs the slow tests instead.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

if [ "${1:-}" = "--slow" ]; then
    shift
    exec python -m pytest -m slow "$@"
fi
ruff check .
ruff format --check .
pyright
python -m pytest "$@"
