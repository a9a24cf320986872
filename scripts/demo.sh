#!/usr/bin/env bash
# Fine-tunes a small model with and without targeted dropout, prunes both, and compares them.
# Takes a few minutes on a CPU, without a network. Results are in runs/demo.
#
#     bash scripts/demo.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo "$@"
# Threads wait without spinning, so that a busy machine slows this down only a little.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
exec python scripts/demo.py "$@"
