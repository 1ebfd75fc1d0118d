from bench.system.interpreter import forget_current_folder

forget_current_folder()

from bench.cli.main import main  # noqa: E402  (its imports are not looked up in the current folder)

main()
