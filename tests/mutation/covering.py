"""The tests of a file: those of the tests' mirror of the tree that tell most about it, quick ones first."""

_DIMS = "tracing/axes/test_dims.py"
_AXES = [
    "tracing/axes/test_frozen.py",
    "tracing/axes/test_positions.py",
    "tracing/axes/test_baked.py",
    "tracing/axes/test_kinds.py",
    "tracing/test_groups.py",
]
_SHRINKING = ["tracing/test_shrinking.py", "tracing/test_results.py"]
_SELECTION = [
    "distributions/test_thresholds.py",
    "selection/test_count_above.py",
    "selection/test_global_counts.py",
    "selection/test_many.py",
    "selection/test_top_k.py",
]
_GIVEN = ["rules/test_keep_highest.py", "recipes/test_given_masks.py", "transforms/test_oracle.py"]

#: Beginning of a path below `sparsejax` -> files below `tests`; the longest beginning counts.
TESTS: dict[str, list[str]] = {
    "patterns/": ["patterns/test_patterns.py"],
    "rules/": [*_GIVEN, "recipes/test_recipes.py"],
    "rules/constant.py": ["rules/test_constant.py", *_GIVEN],
    "rules/exchange.py": ["rules/test_exchange.py", *_GIVEN, "distributions/test_counts_and_times.py"],
    "rules/units.py": ["rules/test_units.py"],
    "selection/": _SELECTION,
    "selection/uint64.py": ["selection/test_uint64.py", *_SELECTION],
    "structured/": ["structured/test_pruning.py", "structured/choose/test_budgets.py"],
    "structured/branches/": ["structured/branches/test_branches.py", "structured/branches/test_scanned.py"],
    "structured/choose/": ["structured/choose/test_budgets.py", "structured/test_pruning.py"],
    "tracing/": ["tracing/test_groups.py", *_SHRINKING],
    "tracing/axes/": [*_AXES, *_SHRINKING],
    "tracing/axes/dims.py": [_DIMS, *_AXES, *_SHRINKING],
    "tracing/calibration/": [
        "tracing/calibration/test_statistics.py",
        "tracing/calibration/test_calibrated_kernels.py",
    ],
    "tracing/cost.py": ["tracing/test_cost.py"],
    "tracing/evaluate/": ["tracing/axes/test_positions.py", *_SHRINKING],
    "tracing/fingerprint.py": ["tracing/test_saving.py"],
    "tracing/operations.py": ["tracing/test_operations.py"],
    "tracing/owner_paths.py": ["tracing/test_operations.py", "tracing/test_groups.py"],
    "tracing/saving.py": ["tracing/test_saving.py"],
    "tracing/size_costs.py": ["tracing/test_size_costs.py"],
    "tracing/uses/": ["tracing/test_operations.py", "tracing/test_cost.py"],
    "transforms/": [
        "transforms/test_bad_values.py",
        "transforms/test_optimizers.py",
        "transforms/test_wrappers.py",
    ],
    "transforms/fingerprint.py": ["transforms/test_saving.py"],
    "transforms/handed_out.py": ["transforms/test_containers.py"],
    "transforms/parametrization.py": [
        "rules/test_keep_highest.py",
        "transforms/test_reparametrize_use.py",
        "transforms/test_reparametrize.py",
    ],
    "transforms/reparametrize.py": [
        "rules/test_keep_highest.py",
        "transforms/test_reparametrize_use.py",
        "transforms/test_reparametrize.py",
    ],
    "transforms/reset_moments.py": ["transforms/test_moments.py"],
    "transforms/saving.py": ["transforms/test_saving.py"],
    "transforms/sparsify.py": [
        "rules/test_keep_highest.py",
        "transforms/test_gradients.py",
        "transforms/test_oracle.py",
    ],
}


def tests_of(path: str) -> list[str]:
    """The tests of a file of the package.

    Args:
      path: from the checkout's root, "sparsejax/…".

    Returns:
      Paths from there, in the order in which they are to be run.

    Raises:
      KeyError: a file of a room that has no entry.
    """
    below = path.removeprefix("sparsejax/")
    found = max((begin for begin in TESTS if below.startswith(begin)), key=len, default=None)
    if found is None:
        raise KeyError(path)
    return [f"tests/{name}" for name in TESTS[found]]
