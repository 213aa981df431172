"""The library's text is what lies on the disk, held out by file for good, and cut into windows without a gap."""

import ast
import functools
import hashlib
import pathlib
import sysconfig

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import sources
from experiments.data.loading import load_splits
from experiments.data.preparing import prepared_builder
from experiments.data.sources import held_out, labelled_files, python_version, read_part
from experiments.errors import DatasetError

ROOT = pathlib.Path(sysconfig.get_path("stdlib"))
ROOTS = {"headers": pathlib.Path(sysconfig.get_path("include"))}
WINDOW = 128


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", autouse=True)
def parsed_once():
    """To find a module's docstrings takes seconds for all of them: what was found is kept from test to test."""
    with pytest.MonkeyPatch.context() as patch:
        found = sources._docstrings
        patch.setattr(sources, "_docstrings", functools.cache(lambda source: tuple(found(source))))
        yield


def _records(name, split, directory):
    source = prepared_builder(name, directory).as_data_source(split)
    return source.__getitems__(list(range(len(source))))


@pytest.mark.parametrize("part", ["code", "tables", "headers"])
def test_an_example_is_a_file_of_this_python(directory, part):
    paths = {}
    for split in ("train", "test"):
        records = _records(f"python_text/{part}", split, directory)
        paths[split] = [record["path"].decode() for record in records]
        assert paths[split] == sorted(paths[split])
        for path, record in zip(paths[split], records, strict=True):
            assert record["text"] == (ROOTS.get(part, ROOT) / path).read_bytes()
            assert (int(hashlib.sha1(path.encode()).hexdigest(), 16) % 10 == 0) == (split == "test")
    assert not set(paths["train"]) & set(paths["test"])
    every = paths["train"] + paths["test"]
    assert not [path for path in every if "test" in path.split("/") or "site-packages" in path]
    if part == "code":
        top = {path.name for path in ROOT.glob("*.py") if path.read_bytes()}
        assert {path for path in top if not path.startswith("_sysconfigdata")} <= set(every)
        assert {"json/decoder.py", "asyncio/base_events.py", "idlelib/editor.py"} <= set(every)


def test_parts_do_not_overlap_and_are_large_enough():
    code, tables, headers = (read_part(part) for part in ("code", "tables", "headers"))
    assert not (code["train"].keys() | code["test"].keys()) & (tables["train"].keys() | tables["test"].keys())
    for part, least in ((code, 5_000_000), (tables, 600_000), (headers, 300_000)):
        sizes = {split: sum(map(len, files.values())) for split, files in part.items()}
        assert sizes["train"] > least
        assert sizes["test"] > 60_000
        assert not [path for files in part.values() for path, text in files.items() if 0 in text]


@pytest.fixture(scope="module")
def prose():
    return read_part("prose")


def test_prose_is_docstrings_and_help_topics(prose):
    text = {**prose["train"], **prose["test"]}
    assert (
        text["json/decoder.py"]
        .decode()
        .startswith(ast.get_docstring(ast.parse((ROOT / "json/decoder.py").read_bytes())))
    )
    assert b"\n\nDecode ``s``" not in text["json/decoder.py"]  # indentation is removed, sentences are whole
    topics = ast.literal_eval(
        (ROOT / "pydoc_data/topics.py").read_text(encoding="utf-8").split("topics = ", 1)[1]
    )
    held = {name for name in topics if held_out(f"pydoc_data/topics.py/{name}")}
    assert {path.rpartition("/")[2] for path in prose["test"] if path.startswith("pydoc")} == held
    for name in held:
        assert prose["test"][f"pydoc_data/topics.py/{name}"].decode() == topics[name]
    assert sum(map(len, prose["train"].values())) > 1_000_000
    assert sum(map(len, prose["test"].values())) > 60_000


def test_no_paragraph_of_a_held_out_topic_is_trained_on(prose):
    def paragraphs(split):
        texts = [text for path, text in prose[split].items() if path.startswith("pydoc_data/")]
        return [paragraph for text in texts for paragraph in text.split(b"\n\n")]

    train = paragraphs("train")
    assert not set(train) & set(paragraphs("test"))
    assert len(train) > 1000


def test_holding_out_is_stable():
    """Fixed by SHA-1, whatever the Python, its hash seed or the other files."""
    paths = [
        "abc.py",
        "ast.py",
        "copy.py",
        "json/decoder.py",
        "os.py",
        "queue.py",
        "random.py",
        "re/_parser.py",
    ]
    assert [path for path in paths if held_out(path)] == ["copy.py"]
    many = [f"package/module_{i}.py" for i in range(2000)]
    assert 150 <= sum(map(held_out, many)) <= 250


def test_the_version_is_in_the_name_and_the_metadata(directory):
    builder = prepared_builder("python_text/headers", directory)
    version = python_version()
    assert builder.info.config_name == f"headers-{version}"
    assert f"/headers-{version}/" in f"{builder.data_path}/"
    files = {split: read_part("headers")[split] for split in ("train", "test")}
    metadata = builder.info.metadata
    assert metadata["python"] == version
    for split, texts in files.items():
        assert metadata[split] == {
            "files": len(texts),
            "bytes": sum(map(len, texts.values())),
            "sha1": hashlib.sha1(b"\0".join(texts.values())).hexdigest(),
        }


def test_windows_and_targets_run_through_the_text_without_a_gap(directory):
    train, test = load_splits("python_text", data_dir=str(directory), window=WINDOW)
    for split, held in ((train, "train"), (test, "test")):
        files = read_part("code")[held]
        text = np.frombuffer(b"".join(text + b"\0" for text in files.values()), np.uint8)
        np.testing.assert_array_equal(split.arrays["tokens"], text)
        assert (split.size, split.classes, split.input_shape) == ((len(text) - 1) // WINDOW, 256, (WINDOW,))
        last = split.size - 1
        batch = split.take(jnp.array([0, 1, last]))
        assert batch.inputs.dtype == jnp.int32
        assert batch.targets.dtype == jnp.int32
        for row, first in enumerate((0, WINDOW, last * WINDOW)):
            np.testing.assert_array_equal(batch.inputs[row], text[first : first + WINDOW])
            np.testing.assert_array_equal(batch.targets[row], text[first + 1 : first + WINDOW + 1])
        assert len(text) - 1 - (last + 1) * WINDOW < WINDOW  # no whole window is lost at the end


def test_a_text_of_exactly_one_window(directory):
    files = read_part("headers")["test"]
    length = sum(len(text) + 1 for text in files.values())
    (split,) = load_splits("python_text/headers", ("test",), str(directory), window=length - 1)
    assert split.size == 1
    assert int(split.take(jnp.array([0])).targets[0, -1]) == 0
    with pytest.raises(DatasetError, match=f"window={length} is longer than the text"):
        load_splits("python_text/headers", ("test",), str(directory), window=length)


@pytest.mark.parametrize(("part", "words"), [("poetry", "no part 'poetry'.*code, tables, prose, headers")])
def test_an_unknown_part(directory, part, words):
    with pytest.raises(DatasetError, match=words):
        load_splits(f"python_text/{part}", data_dir=str(directory))
    with pytest.raises(DatasetError, match=f"no part '{part}'"):
        read_part(part)


def test_a_python_without_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "_root", lambda kind: tmp_path / kind)
    with pytest.raises(DatasetError, match="No file of the part 'headers'"):
        read_part("headers")
    with pytest.raises(DatasetError, match="not files in"):
        labelled_files()


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_without_bytes(directory, window):
    with pytest.raises(DatasetError, match="at least 1 byte"):
        load_splits("python_text/headers", data_dir=str(directory), window=window)


@pytest.fixture(scope="module")
def modules(directory):
    return load_splits("python_modules", data_dir=str(directory), window=WINDOW)


def test_labelled_windows_are_cut_from_the_files_of_their_package(directory, modules):
    names, files = labelled_files()
    for split, held in zip(modules, ("train", "test"), strict=True):
        expected, labels = [], []
        for path, text in files[held].items():
            for first in range(0, len(text) - WINDOW + 1, WINDOW):
                expected.append(text[first : first + WINDOW])
                labels.append(names.index(path.split("/")[0]))
        assert np.asarray(split.arrays["tokens"]).tobytes() == b"".join(expected)
        np.testing.assert_array_equal(split.arrays["label"], labels)
        assert (split.size, split.classes, split.input_shape) == (len(labels), len(names), (WINDOW,))
        assert set(labels) == set(range(len(names)))
        batch = split.take(jnp.array([0, len(labels) - 1]))
        assert bytes(np.asarray(batch.inputs[1], np.uint8)) == expected[-1]
        assert batch.targets.tolist() == [labels[0], labels[-1]]


def test_each_package_is_held_out_by_file(modules):
    names, files = labelled_files()
    assert 8 <= len(names) <= 20
    assert not files["train"].keys() & files["test"].keys()
    for name in names:
        train, test = (
            sum(path.startswith(f"{name}/") for path in files[split]) for split in ("train", "test")
        )
        assert test == -(-(train + test) // 10)
        ranks = {
            split: [
                hashlib.sha1(path.encode()).digest() for path in files[split] if path.startswith(f"{name}/")
            ]
            for split in ("train", "test")
        }
        assert max(ranks["test"]) < min(ranks["train"])


def test_kinds_of_text_are_the_parts_with_what_they_hold_out(directory):
    kinds = load_splits("python_kinds", data_dir=str(directory), window=WINDOW)
    parts = {part: read_part(part) for part in ("headers", "tables")}  # prose takes seconds to read
    for split, held in zip(kinds, ("train", "test"), strict=True):
        tokens, labels = np.asarray(split.arrays["tokens"]), np.asarray(split.arrays["label"])
        for part, files in parts.items():
            texts = files[held].values()
            cut = [text[i : i + WINDOW] for text in texts for i in range(0, len(text) - WINDOW + 1, WINDOW)]
            label = ("code", "headers", "prose", "tables").index(part)
            assert sorted(row.tobytes() for row in tokens[labels == label]) == sorted(cut)
        assert set(labels[: split.size // 4]) == set(range(4))  # a slice has all kinds
        assert (split.classes, split.input_shape) == (4, (WINDOW,))


def test_a_window_longer_than_every_labelled_file(directory):
    with pytest.raises(DatasetError, match="longer than the text"):
        load_splits("python_modules", ("test",), str(directory), window=10**7)
