#!/usr/bin/env bash
# Shows what targeted dropout does, in a few minutes on a CPU and without a network: fine-tunes a
# small model with it and without it, prunes both, and compares them. Results are in runs/demo.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo
# Threads that wait without spinning: a busy machine then slows this down a little, not a lot.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
exec python scripts/demo.py
