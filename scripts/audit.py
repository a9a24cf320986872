"""Print the packages that hf_td needs: versions, licences, what each is for, vulnerabilities.

python scripts/audit.py --extra dev
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

from lab.audit import packages, table, vulnerabilities


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, then the vulnerabilities."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--extra", default="dev", help="of pyproject.toml, beside the core")
    options = parser.parse_args(argv)
    print(table(packages(options.extra)))
    print(f"\n{vulnerabilities()}")


if __name__ == "__main__":
    main()
