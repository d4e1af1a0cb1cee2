"""`python -m ganlib` is the command `ganlib`."""

from ganlib.runs.cli import main

if __name__ == "__main__":
    main(prog_name="ganlib")
