"""`python -m otoscope`: the same as the command `otoscope`."""

from otoscope.cli.main import main

if __name__ == "__main__":
    main()
