"""The program: `python -m bench`, and the command `bench`."""

import sys

from bench.system.interpreter import forget_current_folder

forget_current_folder()

from bench.system.packages import describe_unreadable  # noqa: E402  (the current folder is not searched from here on)


def main() -> None:
    """Run the command line."""
    try:
        from bench.cli.main import main as run

        run()
    except (TypeError, ValueError) as fault:
        sentence = describe_unreadable(fault)
        if not sentence:
            raise
        print(f"bench: {sentence}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
