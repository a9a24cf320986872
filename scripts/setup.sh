#!/usr/bin/env bash
# Makes .venv with the package and an extra, at the versions of constraints.txt, and activates it.
# The files of requirements-EXTRA.txt, where there is one, have to have their recorded hashes. Installed
# packages are reused. For the other scripts:
#
#     source scripts/setup.sh EXTRA "$@"
#
# --help anywhere after EXTRA prints the comment at the top of the calling script, and ends it.
set -euo pipefail
for word in "$@"; do
    if [ "$word" = --help ] || [ "$word" = -h ]; then
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[-1]}"
        exit 0
    fi
done
extra=${1:?an extra of pyproject.toml was expected, such as dev}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# The environment is current if it was made for this extra from these files.
hashes=requirements-$extra.txt
[ -f "$hashes" ] || hashes=
wanted=$(cat pyproject.toml constraints.txt $hashes | cksum)
stamp=.venv/.installed-$extra
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python3 -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
    [ -x .venv/bin/python ] || python3 -m venv .venv
    echo "installing hf_td[$extra] into .venv ..."
    # Without dependencies, which are all in the file: pip wants a hash for everything that it then sees.
    if [ -n "$hashes" ]; then
        .venv/bin/python -m pip install --quiet --no-deps --require-hashes --requirement "$hashes"
    fi
    # torch by its exact version, so that pip takes a CPU build if there is one. Each index has another
    # file of it, so it has no hash.
    .venv/bin/python -m pip install --quiet --constraint constraints.txt torch
    .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[$extra]"
    echo "$wanted" > "$stamp"
fi
export PATH="$root/.venv/bin:$PATH"
