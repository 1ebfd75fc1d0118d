from bench.system.interpreter import forget_current_folder

forget_current_folder()

# Modules are no longer looked up in the current folder.
from bench.cli.main import main  # noqa: E402

main()
