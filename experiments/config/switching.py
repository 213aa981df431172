"""Another model from the command line: ``--config.model.name=lenet``, whose own sizes may then be overridden too."""

import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from experiments.config.model_fields import model_fields
from experiments.models.build import MODELS

# --config.model.name=NAME, also below a part of the configuration, such as --config.base.model.name=NAME.
_NAMED = re.compile(r"--?config\.((?:\w+\.)*model)(?:\.name)?=(\w+)$")


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Writes ``--config.model=NAME`` as ``--config.model.name=NAME``.

    Args:
      arguments: of the command line.

    Returns:
      The arguments.

    Example:
      >>> spell_out(["train", "--config.base.model=lenet"])
      ['train', '--config.base.model.name=lenet']
    """
    return [_NAMED.sub(r"--config.\1.name=\2", argument) for argument in arguments]


def switch_models(config: Any, arguments: Sequence[str]) -> None:
    """Puts another model's fields, at their defaults, where the command line names another model.

    Args:
      config: as its file made it; changed in place.
      arguments: of the command line. A name that is unknown is left for the check of the configuration.

    Example:
      >>> config = ConfigDict({"model": model_fields("mlp")})
      >>> switch_models(config, ["--config.model.name=lenet"])
      >>> config.model.channels
      (16, 32)
    """
    for argument in arguments:
        if not (found := _NAMED.match(argument)):
            continue
        *parents, last = found[1].split(".")
        place = config
        for name in parents:
            place = place.get(name, ConfigDict())
        model = place.get(last)
        if found[2] in MODELS and isinstance(model, ConfigDict) and model.get("name") != found[2]:
            with place.unlocked():
                place[last] = model_fields(found[2])
            place[last].lock()


class SwitchingParser(flags.ArgumentParser):
    """Reads a configuration's file, then switches its models, before the fields that may be overridden are known."""

    def __init__(self, inner: flags.ArgumentParser, arguments: Sequence[str]) -> None:
        """Keeps the parser of the file, and the command line, which is filled in later."""
        self.inner, self.arguments = inner, arguments

    def parse(self, argument: str) -> Any:
        """Reads the file that the argument names."""
        config = self.inner.parse(argument)
        if isinstance(config, ConfigDict):  # else it could not be read, and says so when it is used
            switch_models(config, self.arguments)
        return config

    def flag_type(self) -> str:
        """Says what the flag is, in absl's help."""
        return self.inner.flag_type()
