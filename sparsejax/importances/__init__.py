"""Importances: one number a unit (a channel, a neuron, a head), higher = kept longer."""

from sparsejax.importances.activations import activation as activation
from sparsejax.importances.activations import variance as variance
from sparsejax.importances.baselines import random as random
from sparsejax.importances.baselines import uniform_width as uniform_width
from sparsejax.importances.experts import routed_norm as routed_norm
from sparsejax.importances.experts import routed_tokens as routed_tokens
from sparsejax.importances.importance import Importance as Importance
from sparsejax.importances.importance import Importances as Importances
from sparsejax.importances.pooling import pool_units as pool_units
from sparsejax.importances.pooling import producer_only as producer_only
from sparsejax.importances.pooling import weights_only as weights_only
from sparsejax.importances.weights import from_score as from_score
from sparsejax.importances.weights import geometric_median as geometric_median
from sparsejax.importances.weights import l1 as l1
from sparsejax.importances.weights import l2 as l2
from sparsejax.importances.weights import taylor as taylor
