#!/usr/bin/env bash
# Lint, types, doctests, README blocks and tests. `--slow` runs the slow tests instead.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev
# One process for each core, of one thread: tiny models gain nothing from more.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
parallel=(--numprocesses auto --maxprocesses 8 --dist worksteal)

if [ "${1:-}" = "--slow" ]; then
    shift
    exec python -m pytest "${parallel[@]}" -m slow "$@"
fi
ruff check .
ruff format --check .
pyright
python -m pytest "${parallel[@]}" "$@"
