"""The program: `python -m bench`, and the command `bench`."""

from bench.system.interpreter import forget_current_folder

forget_current_folder()

from bench.cli.main import main  # noqa: E402  (the current folder is not searched from here on)

if __name__ == "__main__":
    main()
