#!/usr/bin/env bash
# Makes .venv with the package, an extra and their dependencies, at the versions of constraints.txt.
# Reuses a current .venv. To be sourced: `source scripts/setup.sh EXTRA`.
set -euo pipefail
extra=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# A .venv is current if it was made for this extra from these two files.
wanted=$(cat pyproject.toml constraints.txt | cksum)
stamp=.venv/.installed-$extra
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python3 -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
    [ -x .venv/bin/python ] || python3 -m venv .venv
    echo "installing hf_td[$extra] into .venv ..."
    # torch first and by its exact version: pip then takes a CPU build where the index has one.
    .venv/bin/python -m pip install --quiet --constraint constraints.txt torch
    .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[$extra]"
    echo "$wanted" > "$stamp"
fi
export PATH="$root/.venv/bin:$PATH"
