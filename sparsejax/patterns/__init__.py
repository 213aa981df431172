"""Patterns: which weights are kept or dropped together, how their scores pool and their masks expand."""

from sparsejax.patterns.block_and_channel import Block as Block
from sparsejax.patterns.block_and_channel import Channel as Channel
from sparsejax.patterns.n_of_m import NM as NM
from sparsejax.patterns.pattern import Pattern as Pattern
from sparsejax.patterns.pattern import Unstructured as Unstructured
