"""What the command line makes of a configuration: its help, and another model by a flag."""

import shlex

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import train
from experiments.command import _absent, _example, _help
from experiments.compress.options import validate_compression
from experiments.config.fields import FIELDS, TOPICS, default_config
from experiments.config.help import fields_help
from experiments.config.switching import SwitchingParser, spell_out
from experiments.config.validation import ignored_fields, validate_config
from experiments.errors import ConfigError
from experiments.lottery.options import check as check_lottery
from experiments.models.build import MODELS
from experiments.one_shot.options import check as check_one_shot
from experiments.run.methods import METHODS
from experiments.search.options import validate_search
from experiments.study import command as study
from experiments.study.options import completed

#: ml_collections loads a configuration's file in a way that Python 3.12 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def _read(*arguments):
    """The configuration that a command line gives."""
    line = spell_out(["program", *arguments])
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
    values["config"].parser = SwitchingParser(values["config"].parser, line)
    values(line)
    return config.value


def test_help_names_everything_at_eighty_columns():
    text = fields_help()
    assert max(map(len, text.splitlines())) <= 80
    for name in (*FIELDS, *METHODS, *MODELS):
        assert any(line.startswith(f"  {name} ") for line in text.splitlines()), name
    assert "3·steps/4" in text


def test_the_help_of_a_command_is_read_at_eighty_columns_and_its_commands_can_be_copied():
    text = _help(train.main, True)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    commands = [
        shlex.split(line) for line in text.replace("\\\n", "").splitlines() if line.startswith("python")
    ]
    assert [words[:4] for words in commands] == [
        ["python", "-m", "experiments.train", "--config=configs/digits_mlp.py:rigl"]
    ] * 2
    assert commands[1][-3:] == ["--config.sparsity=0.98", "--config.steps=8000", "--extend"]
    assert all(topic in lines for topic in TOPICS)
    assert any(line.startswith("  --extend ") for line in lines)


def test_a_file_that_is_not_there_is_told_with_its_neighbour():
    told = _absent("Failed loading config file\n[Errno 2] No such file or directory: 'configs/digit_mlp.py'")
    assert told.startswith(
        "--config=configs/digit_mlp.py (did you mean configs/digits_mlp.py?): there is no such file"
    )
    assert "did you mean" not in _absent("No such file or directory: 'nowhere/at_all.py'")
    assert _absent("Is a\ndirectory") == "Is a directory"


@pytest.mark.parametrize("flag", ["--config.model.name=lenet", "--config.model=lenet"])
def test_a_flag_switches_the_model_and_its_sizes_may_follow(flag):
    config = _read("--config=configs/digits_mlp.py:gmp", flag, "--config.model.channels=(4,8)")
    validate_config(config)
    assert config.model.to_dict() == MODELS["lenet"].sizes | {"name": "lenet", "channels": (4, 8)}
    assert config.method == "gmp"


def test_a_study_switches_the_model_of_its_base():
    study = _read(
        "--config=configs/studies/digits_convnet_methods.py",
        "--config.base.model=mlp",
        "--config.base.steps=300",
    )
    assert study.base.model.widths == (300, 100)
    assert study.base.end_step == 225


def test_the_same_model_keeps_its_sizes_and_fields_of_another_are_unknown():
    config = _read("--config=configs/imagenet_vit_gmp.py", "--config.model.name=vit")
    assert config.model.patch == 16
    with pytest.raises(AttributeError, match="channels"):
        _read("--config=configs/digits_mlp.py", "--config.model.channels=(4,8)")


def test_fields_that_the_method_ignores_are_told():
    config = _read(
        "--config=configs/digits_mlp.py:dense", "--config.sparsity=0.9", "--config.begin_step=4000"
    )
    validate_config(config)
    assert ignored_fields(config) == ["sparsity"]


@pytest.mark.parametrize(
    ("validate", "named", "folder"),
    [(validate_search, "search", "search"), (validate_compression, "compress", "compress"),
     (check_one_shot, "one_shot", "one_shot"), (check_lottery, "lottery", "lottery"),
     (completed, "study", "studies")],
)  # fmt: skip
def test_a_configuration_of_another_command_is_refused_with_the_folder_of_its_own(validate, named, folder):
    with pytest.raises(ConfigError, match=f"not one of experiments.{named}: those are in configs/{folder}"):
        validate(default_config())


def test_a_run_refuses_the_configuration_of_a_study():
    with pytest.raises(ConfigError, match=r"'base', so it is one of another command than experiments\.train"):
        validate_config(ConfigDict({"base": default_config()}))


def test_what_is_missing_is_told_by_an_example_of_the_same_command():
    assert _example(train.main).startswith("python -m experiments.train --config=configs/digits_mlp.py:rigl ")
    assert _example(study.main).startswith("python -m experiments.study --config=configs/studies/")
