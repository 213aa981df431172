"""The shell around a command: flags in, a sentence instead of a traceback when the user can mend it."""

import difflib
import logging as python_logging
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.config.help import fields_help, flag_help, wrapped
from experiments.config.switching import SwitchingParser, spell_out
from experiments.errors import ConfigError, Interrupted, error_text
from sparsejax.errors import SparsejaxError

#: Exit status of a command that could not do what was asked.
FAILED = 2
#: Exit status of a command that SIGTERM stopped, as shells give it (128 + 15); it left a checkpoint to go on from.
STOPPED = 143

# What the flags of a configuration's fields are read from: the command line, the model's name written out.
_ARGUMENTS: list[str] = []

CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="configuration file, such as configs/digits_mlp.py:rigl",
    sys_argv=_ARGUMENTS,
)
flags.FLAGS["config"].parser = SwitchingParser(flags.FLAGS["config"].parser, _ARGUMENTS)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory for the result, the arrays and the plots; made when absent"
)
EXTEND = flags.DEFINE_boolean(
    "extend",
    False,
    "go on with the run in --workdir up to --config.steps, more than it had: the learning rate rises and falls anew "
    "over the further steps (with decay_steps it stays at its last), masks stay on the times of the first end",
)

#: Why the other commands refuse `--extend`.
ONE_RUN = (
    "--extend is for one run, by experiments.train: the runs of {0} are named by their configurations and compared at "
    "equal steps. Give {0} another --workdir with more steps, or extend one of its runs in place, which it then "
    "refuses to take for its own."
)


def run_command(main: Callable[[], None], *, extends: bool = False) -> None:
    """Parses the command line, runs `main`, and exits.

    Args:
      main: reads `CONFIG` and `WORKDIR`; a `SparsejaxError` that it raises is printed, not traced.
      extends: whether it reads `EXTEND` too; otherwise that is refused.
    """

    if {"--help", "-help", "-h"} & set(sys.argv[1:]):
        print(_help(main, extends))
        sys.exit(0)

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # absl would repeat what JAX and matplotlib only note
        python_logging.getLogger("sparsejax").setLevel(
            python_logging.WARNING
        )  # `describe` says what is prunable
        try:
            if argv[1:]:
                raise ConfigError(
                    f"Unexpected {' '.join(argv[1:])!r}: fields are given as --config.name=value."
                )
            for flag in (CONFIG, WORKDIR):
                if flag.value is None:
                    raise ConfigError(f"--{flag.name}=… is missing. Example: {_example(main)}")
            if EXTEND.value and not extends:
                raise ConfigError(ONE_RUN.format(".".join(main.__module__.split(".")[:2])))
            _check_loaded()
            main()
        except Interrupted as error:
            print(error, file=sys.stderr)
            sys.exit(STOPPED)
        except SparsejaxError as error:
            _fail(error)
        except KeyboardInterrupt:
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)


def _example(main: Callable[[], None]) -> str:
    """The first command that a module's own description shows."""
    lines = (sys.modules[main.__module__].__doc__ or "").splitlines()
    return next((line for line in lines if line.startswith("python -m ")), "…").removesuffix(" \\")


def _parse(argv: Sequence[str]) -> list[str]:
    _ARGUMENTS[:] = spell_out(argv)
    try:
        return flags.FLAGS(_ARGUMENTS)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if own := own_error(error):
            _fail(own)  # what a configuration's file raised; ml_collections would show its traceback
        # ml_collections raises these for a mistyped field, with its "did you mean".
        _fail(ConfigError(f"The command line cannot be read: {_told(error)}"))
        raise  # not reached


def _told(error: BaseException) -> str:
    """What absl and ml_collections say of a flag, and for a field without its prefix how it is given."""
    text = str(error.args[0] if error.args else error).replace("\\n", " ").replace("\\'", "'")
    if quoted := re.fullmatch(r"(['\"])(.*)\1", text):  # the text of a KeyError is the repr of a message
        text = quoted[2]
    if unknown := re.match(r"Unknown command line flag '([\w.]+)'", text):
        field = unknown[1].split(".")[-1]
        return f"{text.rstrip('.')}. Fields are given as --config.{field}=value; --help lists them."
    if field := re.fullmatch(r"'?([\w.]+)'?", text):  # nothing but the name
        return f"config has no field {field[1]!r}; --help lists them."
    return text


def own_error(error: BaseException | None) -> SparsejaxError | None:
    """Finds the first error of ours that an error came from; those on the way repeat its traceback as their text."""
    found = None
    while error is not None:
        found = error if isinstance(error, SparsejaxError) else found
        error = error.__cause__ or error.__context__
    return found


def _help(main: Callable[[], None], extends: bool) -> str:
    """The command's own page: what it does, its flags, and the fields of a configuration."""
    module = main.__module__
    own = [*flags.FLAGS.get_key_flags_for_module(module), flags.FLAGS["config"], flags.FLAGS["workdir"]]
    own += [flags.FLAGS["extend"]] if extends else []
    shown = {flag.name: flag_help(flag.name, flag.help) for flag in own}
    return "\n\n".join([
        wrapped((sys.modules[module].__doc__ or "").strip()),
        "\n".join(["Flags", *shown.values()]),
        wrapped("Fields: --config.NAME=VALUE; where a study or a compression has its runs, --config.base.NAME=VALUE"),
        fields_help(),
    ])  # fmt: skip


def _check_loaded() -> None:
    """Touches the configuration: ml_collections reports a file that is absent or broken only then."""
    try:
        list(CONFIG.value)
    except OSError as error:
        raise ConfigError(_absent(str(error))) from error


def _absent(told: str) -> str:
    """Says that a configuration file is not there, and which one nearly has its name."""
    found = re.search(r"No such file or directory: '([^']+)'", told)
    if not found:
        return " ".join(told.split())
    path = pathlib.Path(found[1])
    near = difflib.get_close_matches(path.name, [one.name for one in path.parent.glob("*.py")], n=1)
    meant = f" (did you mean {path.parent / near[0]}?)" if near else ""
    return f"--config={path}{meant}: there is no such file. Paths start at the current directory, {pathlib.Path.cwd()}."


def _fail(error: SparsejaxError) -> None:
    print(error_text(error), file=sys.stderr)
    sys.exit(FAILED)
