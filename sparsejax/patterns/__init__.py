"""Patterns: which weights are kept or dropped together, how their scores pool and their masks expand."""

from sparsejax.patterns.base import Pattern as Pattern
from sparsejax.patterns.base import Unstructured as Unstructured
from sparsejax.patterns.n_of_m import NM as NM
from sparsejax.patterns.whole import Block as Block
from sparsejax.patterns.whole import Channel as Channel
