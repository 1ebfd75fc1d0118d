"""The program: `python -m bench`, and the command `bench`."""

import sys

from bench.system.interpreter import forget_current_folder
from bench.system.packages import describe_unreadable


def main() -> None:
    """Run the command line, with modules that are not looked up in the current folder."""
    forget_current_folder()
    try:
        from bench.cli.main import main as run
    except (TypeError, ValueError) as fault:
        if not (sentence := describe_unreadable(fault)):
            raise
        print(f"bench: {sentence}", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
