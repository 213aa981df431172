"""Scores: one number a weight, higher = kept longer."""

from sparsejax.scores.base import Score as Score
from sparsejax.scores.base import stateless as stateless
from sparsejax.scores.flow import grasp as grasp
from sparsejax.scores.flow import synflow as synflow
from sparsejax.scores.gradient import gradient_magnitude as gradient_magnitude
from sparsejax.scores.gradient import saliency as saliency
from sparsejax.scores.gradient import snip_score as snip_score
from sparsejax.scores.magnitude import lamp as lamp
from sparsejax.scores.magnitude import magnitude as magnitude
from sparsejax.scores.random import random as random
