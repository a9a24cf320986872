"""`python -m hf_td` is the program `hf-td`."""

from hf_td.cli import main

if __name__ == "__main__":
    main()
