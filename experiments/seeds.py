"""Trains several configurations with several seeds and prints the table of what the seeds can say.

python -m experiments.seeds --configs configs/digits_mlp_*.py --seeds 5 --json seeds.json
"""

import argparse
import importlib.util
import io
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from experiments import command, train
from sparsejax import ConfigError, SparsejaxError, training
from sparsejax.training import files


def main(argv: list[str]) -> None:
    """Runs every configuration with every seed, one after the other, finished ones not again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", required=True, help="configuration files")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to this, exclusive")
    parser.add_argument("--workdir", default="runs/seeds", help="each run has its own directory below")
    parser.add_argument("--json", help="write all results there")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields to change in every config"
    )
    arguments = parser.parse_args(argv)
    rows = {}
    for path in map(pathlib.Path, arguments.configs):
        name = "_".join([path.stem, *arguments.set]).replace("/", "-")
        rows[name] = [
            one_run(path, arguments.set, seed, pathlib.Path(arguments.workdir) / name / f"seed_{seed}")
            for seed in range(arguments.seeds)
        ]
    print(table(rows))
    if arguments.json:
        files.write_json(pathlib.Path(arguments.json), rows)


def one_run(path: pathlib.Path, changes: list[str], seed: int, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains one configuration with one seed, and says in one line how it went."""
    config = read_config(path)
    config.seed = seed
    for change in changes:
        field, _, value = change.partition("=")
        try:
            config[field] = type(config[field])(value)
        except (KeyError, AttributeError, ValueError, TypeError) as error:
            raise ConfigError(
                f"--set {change}: give FIELD=VALUE with a field of the configuration."
            ) from error
    result = train.run(config, str(workdir), Console(file=io.StringIO()))
    print(
        f"{path.stem} seed {seed}: test accuracy {result['metrics']['test_accuracy']:.4f}, "
        f"{result['wall_seconds']:.1f} s",
        flush=True,
    )
    return result


def read_config(path: pathlib.Path) -> ConfigDict:
    """Runs a configuration file's `get_config`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or not path.is_file():
        raise ConfigError(f"There is no configuration file {path}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().lock()


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Renders the markdown table: a row for each configuration, means with 95 % intervals over seeds."""
    lines = [
        "| configuration | test accuracy | sparsity | training FLOPs | inference FLOPs | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, results in rows.items():
        accuracy = training.interval([100 * r["metrics"]["test_accuracy"] for r in results])
        columns = [
            f"{accuracy.mean:.2f} ± {accuracy.half_width:.2f} %",
            f"{_mean(r['sparsity'] for r in results):.4f}",
            f"{_mean(r['training_flops']['relative'] for r in results):.3f}×",
            f"{_mean(r['inference_flops']['relative'] for r in results):.3f}×",
            f"{_mean(r['wall_seconds'] for r in results):.1f}",
        ]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    groups = [[100 * r["metrics"]["test_accuracy"] for r in results] for results in rows.values()]
    seeds = len(groups[0])
    images = next(iter(rows.values()))[0]["examples"]["test"]
    lines.append(
        f"\nMean ± 95 % interval of {seeds} seeds; FLOPs as a share of the dense network's. One test image "
        f"is {100 / images:.2f} points; two rows that differ by less than "
        f"{training.resolvable_difference(groups):.2f} points are not told apart by {seeds} seeds."
    )
    return "\n".join(lines)


def _mean(values: Any) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SparsejaxError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(command.FAILED)
