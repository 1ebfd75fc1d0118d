"""The program: `python -m bench`, and the command `bench`."""

from bench.system.interpreter import forget_current_folder

forget_current_folder()

# From here on the current folder is not searched.
from bench.cli import main as command_line  # noqa: E402
from bench.system.interpreter import EXIT_S, end_within  # noqa: E402


def main() -> None:
    """Run the command line. Exit functions and threads of a plug-in do not hold its end."""
    code = 1
    try:
        command_line.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        end_within(EXIT_S, code)


if __name__ == "__main__":
    main()
