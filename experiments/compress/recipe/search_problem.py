"""A network as a search problem: what may be chosen, what it costs and loses, and the network that a choice means."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import sparsejax
from experiments.compress.recipe.network import Network
from experiments.compress.recipe.reconstruction import solve_readers, with_readers
from experiments.compress.recipe.stage import Context
from experiments.compress.recipe.stages.pruning import METHODS, with_units
from experiments.compress.unit_choices import unit_importance
from experiments.config.checks import Check, flag, number, one_of, several, whole
from experiments.errors import ConfigError
from experiments.run.objective import example_losses
from sparsejax import post_training
from sparsejax import search as searching
from sparsejax.distillation import distill_logits
from sparsejax.params.paths import flatten_with_paths, map_with_path
from sparsejax.structured import branch_masks, residual_branches
from sparsejax.structured.choose.removal_order import keep_best
from sparsejax.tracing import size_account

WHATS = ("units", "weights", "branches")
_SHARES = several("shares that go, in [0, 1)", lambda x: isinstance(x, int | float) and 0 <= x < 1)

#: The fields of what is searched, with their defaults and checks; a stage and a study share them.
FIELDS: dict[str, tuple[Any, Check]] = {
    "what": ("units", one_of(WHATS)),
    "levels": ((0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875), _SHARES),  # shares of units that may go
    "kinds": (("channel", "neuron", "head"), several("kinds of groups", lambda x: isinstance(x, str))),
    "importance": ("l2", Check("an importance", lambda x: isinstance(x, str))),
    "reconstruct": (False, flag()),  # units: layers that read them solved anew by least squares, as AMC does
    "method": ("magnitude", one_of(METHODS)),  # of weights
    "steps": (8, whole(2)),  # levels of weights, on each side of the budget's sparsity
    "resource": ("multiply_adds", one_of(("multiply_adds", "parameters", "weights", "latency"))),
    "share": (0.5, number("the share that stays, in (0, 1]", lambda x: 0 < x <= 1)),
    "loss": ("labels", one_of(("labels", "logits"))),  # or the divergence from the network's own logits
    "population": (16, whole(1)),  # candidates of a program
    "tune_steps": (
        0,
        whole(0),
    ),  # of fine-tuning on half of the batches, before the other half judges a candidate
}


def check_tuning(searcher: str, options: Any) -> None:
    """Refuses the searcher that goes on from fine-tuned weights where nothing is fine-tuned.

    Args:
      searcher: its name.
      options: with the fields of `FIELDS`.

    Raises:
      ConfigError: as said.
    """
    if searcher == "netadapt_tuned" and not options.tune_steps:
        raise ConfigError(
            "The searcher 'netadapt_tuned' fine-tunes candidates: give tune_steps=, such as 10."
        )


class NetworkProblem(NamedTuple):
    """A search over one network.

    Attributes:
      problem: of `sparsejax.search`.
      budget: that choices are to meet.
      network_of: the network that a choice means, masked; `shrink` cuts units out.
      held_out: a choice's loss on data that the search is not given; after fine-tuning from the network's own weights
        where candidates are fine-tuned.
    """

    problem: searching.Problem
    budget: searching.Budget
    network_of: Callable[[searching.Choice], Network]
    held_out: searching.Loss


def build_problem(context: Context, network: Network, options: Any) -> NetworkProblem:
    """Makes the problem of a network.

    Args:
      context: gives calibration batches and those held out.
      network: trained.
      options: with the fields of `FIELDS`.

    Returns:
      The problem.

    Raises:
      ConfigError: a resource that does not go with what is searched.
      SearchError: nothing to choose.
    """
    wanted = {"weights": ("weights",), "branches": ("parameters",)}.get(
        options.what, ("multiply_adds", "parameters", "latency")
    )
    if options.resource not in wanted:
        raise ConfigError(
            f"resource is {options.resource!r} with what={options.what!r}: choose one of {', '.join(wanted)}."
        )
    make = {"units": _units, "weights": _weights, "branches": _branches}[options.what]
    candidates, sites, cost, network_of = make(context, network, options)
    loss = loss_function(network, options.loss)
    mode = "map" if _slow_side_by_side(network) else "vmap"

    def population(batches: Any) -> searching.Loss:
        given = [tuple(batch) for batch in batches]
        return searching.population_loss(candidates, loss, given, size=options.population, mode=mode)

    if options.tune_steps:
        steps, judging = context.batches[::2], context.batches[1::2]
        judged, held_out = (
            _tuned(context, candidates, loss, options, steps, given, mode)
            for given in (judging, context.held_out)
        )
    else:
        judged, held_out = population(context.batches), population(context.held_out)
    problem = searching.Problem(sites, {options.resource: cost}, judged)
    if options.what == "weights":  # its levels lie around the budget
        budget = searching.Budget(
            "weights", cost(tuple(_middle(site, options.share) for site in sites.values()))
        )
    else:
        budget = searching.share_of(problem, options.resource, options.share)
    return NetworkProblem(problem, budget, network_of, held_out)


def _tuned(
    context: Context, candidates: Any, loss: Any, options: Any, steps: Any, judging: Any, mode: str
) -> searching.Loss:
    """Candidates after a few steps of Adam at a third of the base's rate; batch statistics stay as they are."""
    if not judging:
        raise ConfigError(
            f"batches is {len(context.batches)} with tune_steps={options.tune_steps}: give at least 2."
        )
    training = [tuple(steps[number % len(steps)]) for number in range(options.tune_steps)]
    fixed = optax.masked(optax.set_to_zero(), {"params": False, "batch_stats": True})
    optimizer = optax.chain(optax.adam(context.base.learning_rate / 3), fixed)
    given = [tuple(batch) for batch in judging]
    return searching.tuned_loss(
        candidates, loss, training, given, optimizer, size=options.population, mode=mode
    )


def loss_function(network: Network, kind: str) -> Callable[..., jax.Array]:
    """``loss(variables, inputs, targets)``: of the labels, or how far the logits are from the network's own.

    Args:
      network: whose function it is.
      kind: ``"labels"`` or ``"logits"``.

    Returns:
      The loss.
    """
    fn, dense = network.function(), network.variables

    def labels(variables: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        return example_losses(fn(variables, inputs), targets)[0].mean()

    def logits(variables: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        del targets
        return distill_logits(fn(variables, inputs), fn(dense, inputs), temperature=1.0)

    return labels if kind == "labels" else logits


def _units(context: Context, network: Network, options: Any) -> tuple[Any, ...]:
    """Channels, neurons and heads: a site a group."""
    fn, variables = network.function(), network.variables
    groups = sparsejax.structured.select_groups(
        sparsejax.prunable_groups(fn, variables, context.inputs), kinds=tuple(options.kinds)
    )
    key = jax.random.key(context.base.seed)
    importances = unit_importance(options.importance, fn, context.batches, key)(variables, groups)
    kept = {name: _counts(group.size, options.levels) for name, group in groups.items()}
    account = size_account(fn, variables, context.inputs)
    whole, sites = account({}), {}
    for name, counts in kept.items():
        saved = [a - b for a, b in zip(whole, account({name: 1}), strict=True)]
        features = {"units": float(groups[name].size), "parameters": float(saved[0]), "work": float(saved[1])}
        shares = tuple(1 - count / groups[name].size for count in counts)
        sites[name] = searching.Site(shares, groups[name].kind, features)
    candidates = searching.unit_candidates(variables, groups, importances, kept)
    if options.reconstruct:
        inputs = [batch.inputs for batch in context.batches]
        candidates = with_readers(candidates, solve_readers(network, inputs, groups, importances, kept))

    def keep_of(choice: searching.Choice) -> dict[str, np.ndarray]:
        counts = {name: row[level] for (name, row), level in zip(kept.items(), choice, strict=True)}
        return keep_best({name: importances[name] for name in kept}, counts)

    def network_of(choice: searching.Choice) -> Network:
        built = jax.jit(candidates.build)(variables, candidates.tables, jax.numpy.asarray(choice))
        return context.refresh(with_units(network._replace(variables=built), groups, keep_of(choice)))

    if options.resource == "latency":
        cost: searching.Choice | Any = searching.latency_table(
            sites,
            lambda choice: sparsejax.structured.measure_latency(
                *sparsejax.shrink(fn, variables, context.inputs, groups, keep_of(choice)),
                context.inputs, budget_seconds=0.1,
            ),
        )  # fmt: skip
    else:
        cost = searching.unit_cost(account, kept, options.resource)
    return candidates, sites, cost, network_of


def _weights(context: Context, network: Network, options: Any) -> tuple[Any, ...]:
    """Single weights: a site a layer, from a database of layers pruned at every level."""
    stats, apply = network.variables["batch_stats"], network.apply()
    params = network.variables["params"]
    fn = lambda p, inputs: apply(p, stats, inputs, False)[0]  # noqa: E731
    batches = [batch.inputs for batch in context.batches]
    prunable = sparsejax.masks.prunable_layers(params)
    sizes = {layer.path: int(np.prod(layer.shape)) for layer in prunable}
    step = max(1, int(np.median(list(sizes.values()))) // 8)  # of small layers a level is then much or all
    shares = searching.equal_steps(sizes, 1 - options.share, step, options.steps)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", post_training.CalibrationWarning
        )  # the loss on held-out batches tells
        database = searching.build_database(
            params, shares,
            lambda overrides: METHODS[options.method](
                fn, params, batches, sparsity=0.5, overrides=overrides, sequential=False
            ),
        )  # fmt: skip
    inner = database.candidates()

    def build(variables: Any, tables: Any, levels: jax.Array) -> Any:
        return {**variables, "params": inner.build(variables["params"], tables, levels)}

    candidates = searching.Candidates(network.variables, inner.tables, build)
    cost = searching.additive_cost(database.kept_weights())

    def network_of(choice: searching.Choice) -> Network:
        levels = jax.numpy.asarray(choice)
        built = jax.jit(inner.build)(params, inner.tables, levels)
        chosen = set(database.layers)
        masks = map_with_path(
            lambda path, leaf: leaf != 0 if path in chosen else jax.numpy.asarray(True), built
        )
        variables = {**network.variables, "params": built}
        return context.refresh(network._replace(variables=variables, masks=masks, stored_bytes=None))

    return candidates, database.sites(), cost, network_of


def _branches(context: Context, network: Network, options: Any) -> tuple[Any, ...]:
    """Residual branches, each whole or gone."""
    del options
    fn, variables = network.function(), network.variables
    branches = residual_branches(fn, variables, context.inputs)
    leaves = dict(zip(*flatten_with_paths(variables)[:2], strict=True))
    sizes = [sum(int(np.size(leaves[path])) for path in branch.paths) for branch in branches]
    everything = sum(int(np.size(leaf)) for leaf in leaves.values())
    whole = jax.tree.map(lambda _: jax.numpy.asarray(True), variables)
    gone = [branch_masks(variables, [branch]) for branch in branches]
    names = [branch.name for branch in branches]
    sites = {
        name: searching.Site(
            (0.0, 1.0), "attention" if "attention" in name else "branch", {"parameters": float(size)}
        )
        for name, size in zip(names, sizes, strict=True)
    }
    candidates = searching.mask_candidates(
        variables, {name: [whole, mask] for name, mask in zip(names, gone, strict=True)}
    )
    cost = searching.additive_cost([[size, 0] for size in sizes], rest=everything - sum(sizes))

    def network_of(choice: searching.Choice) -> Network:
        chosen = [branch for branch, level in zip(branches, choice, strict=True) if level]
        masks = branch_masks(variables, chosen)
        masked = sparsejax.apply_masks(variables, masks)
        return context.refresh(network._replace(variables=masked, masks=masks["params"], stored_bytes=None))

    return candidates, sites, cost, network_of


def _counts(size: int, shares: Any) -> list[int]:
    """The numbers of units that stay, each once, falling."""
    return sorted({max(1, size - round(share * size)) for share in (0.0, *shares)}, reverse=True)


def _middle(site: searching.Site, share: float) -> int:
    """The level nearest to what a uniform sparsity leaves."""
    return int(np.argmin(np.abs(np.asarray(site.removed) - (1 - share))))


def _slow_side_by_side(network: Network) -> bool:
    """Convolutions on a CPU: a batch of kernels would become grouped ones."""
    ranks: Mapping[str, Any] = network.variables["params"]
    deep = any(np.ndim(leaf) == 4 for leaf in jax.tree.leaves(ranks))
    return deep and len(network.input_shape) > 1 and jax.default_backend() == "cpu"
