"""Files of this machine as data: what the network sees of them, each content once, the same set each time."""

import pytest

from experiments.data.machine_files import file_tokens, read_file_tokens, read_machine_files
from experiments.errors import DatasetError

LABELS = ("json", "python", "sql")


def test_both_ends_are_seen_without_their_white_space(tmp_path):
    text = b" \n" + b"a" * 3000 + b"b" * 3000 + b"\n\n"
    (tmp_path / "f").write_bytes(text)
    tokens = read_file_tokens(tmp_path / "f")
    assert tokens[:1024].tolist() == [ord("a")] * 1024
    assert tokens[1024:].tolist() == [ord("b")] * 1024
    short = file_tokens(b"\t x ", b"\t x ")
    assert short[:4].tolist() == [ord("x"), 32, 256, 256]
    assert short[-4:].tolist() == [256, 9, 32, ord("x")]
    assert file_tokens(b"", b"").tolist() == [256] * 2048


def test_each_content_is_taken_once_and_the_set_is_the_same_each_time(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.py").write_text(f"print({i})\n")
        (tmp_path / f"copy{i}.py").write_text(f"print({i})\n")
        (tmp_path / f"{i}.json").write_text(f'{{"number": {i}}}')
    (tmp_path / "small.sql").write_text("x")
    (tmp_path / "link.sql").symlink_to(tmp_path / "0.py")
    (tmp_path / "other.xyz").write_text("something else")
    found = read_machine_files(LABELS, [tmp_path])
    assert found.counts == {"json": 5, "python": 5}
    assert found.digest == read_machine_files(LABELS, [tmp_path]).digest
    assert read_machine_files(LABELS, [tmp_path], most=2).counts == {"json": 2, "python": 2}
    (tmp_path / "9.py").write_text("print(9)\n")
    assert found.digest != read_machine_files(LABELS, [tmp_path]).digest


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no file of a known kind"):
        read_machine_files(LABELS, [tmp_path])
