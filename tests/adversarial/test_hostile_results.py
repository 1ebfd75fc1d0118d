"""Results folders, items and baselines made to mislead a reader, or to lead it elsewhere."""

import io
import os

import pyarrow as pa
import pytest
from pyarrow import parquet

from bench.results.items import read_parquet
from bench.results.store import MAX_BYTES, ReadOnlyStore, Store
from helpers import fake_records
from helpers.limits import limits
from methods.contract.errors import UserError


@pytest.fixture
def root(tmp_path):
    fake_records.perplexity(tmp_path / "r")
    fake_records.accuracy(tmp_path / "r")
    return tmp_path / "r"


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def with_lying_page(compression, size, rows=10):
    """Items whose last page claims to unpack to `size` bytes, unknown to the footer."""
    columns = {"item_id": [str(i) for i in range(rows)], "cluster_id": ["a"] * rows}
    sink = io.BytesIO()
    table = pa.table(columns | {"weight": [1.0] * rows, "value": [0.5] * rows})
    parquet.write_table(
        table, sink, compression=compression, use_dictionary=False, write_statistics=False
    )
    content = sink.getvalue()
    chunk = parquet.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(3)
    at = chunk.data_page_offset + 3  # after the page's type and the head of the field
    end = next(i for i in range(at, at + 9) if content[i] < 128) + 1
    claimed = varint(2 * size)
    content = content[:at] + claimed + content[end:]
    size = chunk.total_compressed_size
    old, new = (b"\x16" + varint(2 * n) for n in (size, size + len(claimed) - end + at))
    before, _, after = content.rpartition(old)
    return before + new + after


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip"])
def test_a_page_that_unpacks_to_more_than_its_footer_says(compression):
    content = with_lying_page(compression, 2**30)
    with pytest.raises(UserError, match="malloc of size 1073741824 failed"):
        read_parquet(content, "items")


def test_a_pipe_or_a_huge_file_in_place_of_a_record(root):
    os.mkfifo(root / "records" / f"{'a' * 32}.json")
    with (root / "records" / f"{'b' * 32}.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    items = next((root / "items").glob("*.parquet"))
    items.unlink()
    os.mkfifo(items)

    with limits(bytes_=10**8):
        store = ReadOnlyStore(root)
        assert len(list(store)) == 1
    assert len(store.damaged) == 3


@pytest.mark.parametrize("name", ["records", "items", "locks", "corrupt", "runs", "logs"])
def test_nothing_is_written_through_a_link(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        Store(tmp_path / "r")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.full
def test_a_run_deletes_no_locks_of_others(tmp_path, output):
    """conda-lock, for example, has such a folder."""
    (tmp_path / "mine/locks").mkdir(parents=True)
    for name in ("poetry.lock", f"{'a' * 32}.lock"):
        (tmp_path / "mine/locks" / name).touch()
    flags = ("--methods", "magnitude", "--quant", "none", "--measures", "size")
    output("run", "--results", tmp_path / "mine", *flags)
    assert [file.name for file in (tmp_path / "mine/locks").iterdir()] == ["poetry.lock"]


def test_a_file_is_not_written_through_a_link(root, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("as before")
    (record,) = (r for r in ReadOnlyStore(root) if r.identity.measure == "zeroshot")
    source = ReadOnlyStore(root)
    target = Store(tmp_path / "new")
    for path in (target.path(record.key), target.items_path(record)):
        path.symlink_to(secret)

    target.copy(record, source)

    assert secret.read_text() == "as before" and target.get(record.key) is not None
