#!/usr/bin/env bash
# Prints every package that hf_td needs, with its licence and what it is for. Then asks pip-audit for
# known vulnerabilities, if it is installed and reaches an index of advisories.
#
#     bash scripts/audit.sh [--extra EXTRA]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev "$@"
exec python scripts/audit.py "$@"
