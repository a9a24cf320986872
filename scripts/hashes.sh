#!/usr/bin/env bash
# Writes requirements-dev.txt: the packages of the extra dev at the versions of constraints.txt, with
# the hashes of all their files on PyPI. torch is left out, since each index has another file of it.
# To be run with Python 3.11 on Linux after a change of constraints.txt or pyproject.toml.
#
#     bash scripts/hashes.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo "$@"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python -m venv "$tools"
"$tools/bin/python" -m pip install --quiet pip-tools
"$tools/bin/pip-compile" --quiet --generate-hashes --extra dev --constraint constraints.txt \
    --unsafe-package torch --no-header --no-annotate --strip-extras \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file "$tools/packages.txt" pyproject.toml
{
    echo "# The packages of the extra dev and the hashes of their files. Written by scripts/hashes.sh."
    grep -v -e '^#' -e '^hf-td @' -e '^$' "$tools/packages.txt"  # not the package itself
} > "$tools/requirements.txt"
mv "$tools/requirements.txt" requirements-dev.txt
