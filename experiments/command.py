"""The shell around a command: flags in, a sentence instead of a traceback when the user can mend it."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.errors import ConfigError, Interrupted
from sparsejax.errors import SparsejaxError

#: Exit status of a command that could not do what was asked.
FAILED = 2
#: Exit status of a command that SIGTERM stopped, as shells give it (128 + 15); it left a checkpoint to go on from.
STOPPED = 143

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="configuration file, such as configs/digits_mlp_rigl.py"
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory for the result, the arrays and the plots; made when absent"
)


def run_command(main: Callable[[], None]) -> None:
    """Parses the command line, runs `main`, and exits.

    Args:
      main: reads `CONFIG` and `WORKDIR`; a `SparsejaxError` that it raises is printed, not traced.
    """

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # absl would repeat what JAX and matplotlib only note
        try:
            if argv[1:]:
                raise ConfigError(
                    f"Unexpected {' '.join(argv[1:])!r}: fields are given as --config.name=value."
                )
            for flag in (CONFIG, WORKDIR):
                if flag.value is None:
                    raise ConfigError(f"--{flag.name}=… is missing. Example: {_EXAMPLE}")
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


_EXAMPLE = "python -m experiments.train --config=configs/digits_mlp_rigl.py --workdir=runs/demo"


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # ml_collections raises these for a mistyped field, with its "did you mean".
        text = (
            str(error.args[0] if error.args else error).strip("'\"").replace("\\n", " ").replace("\\'", "'")
        )
        _fail(ConfigError(f"The command line cannot be read: {text}"))
        raise  # not reached


def _check_loaded() -> None:
    """Touches the configuration: ml_collections reports a file that is absent or broken only then."""
    try:
        list(CONFIG.value)
    except OSError as error:
        raise ConfigError(" ".join(str(error).split())) from error


def _fail(error: SparsejaxError) -> None:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(FAILED)
