#!/usr/bin/env bash
# Runs the linter, the type checker and the tests. With --slow it runs only the slow tests. With
# --friends it installs the libraries that people use together with hf_td, and tests these. With
# --faults it kills work and lets disks fail, and prints how much survived. With --fuzz it reads
# changed files for so many seconds, and stops at the first error that is not documented.
#
#     bash scripts/test.sh [--slow | --friends | --faults] [options of pytest]
#     bash scripts/test.sh --fuzz SECONDS [options of tests.fuzz]
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
if [ "${1:-}" = "--faults" ]; then
    shift
    exec python -m pytest "${parallel[@]}" -m faults tests/faults "$@"
fi
if [ "${1:-}" = "--fuzz" ]; then
    shift
    export PYTHONPATH=scripts
    exec python -m tests.fuzz "$@"
fi
ruff check .
ruff format --check .
pyright
python -m pytest "${parallel[@]}" "$@"
