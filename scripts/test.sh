#!/usr/bin/env bash
# Runs the linter, the type checker and the tests. With --slow it runs only the slow tests. With
# --friends it installs the libraries that people use together with hf_td, and tests these.
#
#     bash scripts/test.sh [--slow | --friends] [options of pytest]
extra=dev
if [ "${1:-}" = "--friends" ]; then
    extra=friends
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "$extra" "$@"
# One process for each core, with one thread: tiny models are no faster with more.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
parallel=(--numprocesses auto --maxprocesses 8 --dist worksteal)

if [ "${1:-}" = "--slow" ]; then
    shift
    exec python -m pytest "${parallel[@]}" -m slow "$@"
fi
if [ "${1:-}" = "--friends" ]; then
    shift
    exec python -m pytest "${parallel[@]}" -m slow tests/friends "$@"
fi
ruff check .
ruff format --check .
pyright
python -m pytest "${parallel[@]}" "$@"
