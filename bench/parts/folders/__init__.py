"""Models of other tools as rows: the method `folder`, and what a plan asks about such a model."""

ENTRIES = {
    "methods": {"folder": "bench.parts.folders.folder_method:ModelFolder"},
    "services": {
        "folder_digest": "bench.formats.opening:content_digest",
        "folder_inspection": "bench.parts.folders.differences:inspect",
    },
}
