"""A client of the hub with a repository for every name. A test chooses its files."""

from fnmatch import fnmatch
from types import SimpleNamespace

import huggingface_hub


class FakeHub:
    def __init__(self, monkeypatch) -> None:
        self.revision = "f" * 40
        self.files: tuple[str, ...] = ()
        self.error: Exception | None = None
        """Error of each request, if any."""
        self.timeouts: list[float] = []
        self.downloads: list[tuple[str, str, str]] = []
        """(repository, kind, revision) of each download."""
        self.contents: dict[str, str] = {}
        """Text of a file, if a test chooses it."""
        self.fetched: list[str] = []
        """Name of each file that was downloaded."""
        api = SimpleNamespace(model_info=self.info, dataset_info=self.info)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def info(self, repo, timeout):
        self.timeouts.append(timeout)
        if self.error:
            raise self.error
        return SimpleNamespace(
            sha=self.revision, siblings=[SimpleNamespace(rfilename=f) for f in self.files]
        )

    def download(self, repo, *, repo_type, revision, local_dir, allow_patterns):
        self.downloads.append((repo, repo_type, revision))
        for file in self.files:
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (local_dir / file).parent.mkdir(parents=True, exist_ok=True)
                (local_dir / file).write_text(self.contents.get(file, f"{repo} {file}"))
                self.fetched.append(file)
