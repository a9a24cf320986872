"""The program `hf-td`, as `python -m hf_td`."""

from hf_td.cli import main

if __name__ == "__main__":
    main()
