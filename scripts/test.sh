#!/usr/bin/env bash
# Runs the linter, the type checker and the tests. With --slow it runs only the slow tests.
#
#     bash scripts/test.sh [--slow] [options of pytest]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev "$@"
# One process for each core, with one thread: tiny models are no faster with more.
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
