"""Scores: one number a weight, higher = kept longer."""

from sparsejax.scores.activations import wanda as wanda
from sparsejax.scores.before_training import grasp as grasp
from sparsejax.scores.before_training import synflow as synflow
from sparsejax.scores.gradients import gradient_magnitude as gradient_magnitude
from sparsejax.scores.gradients import saliency as saliency
from sparsejax.scores.gradients import snip as snip
from sparsejax.scores.noise import random as random
from sparsejax.scores.score import Score as Score
from sparsejax.scores.score import stateless as stateless
from sparsejax.scores.weights import lamp as lamp
from sparsejax.scores.weights import magnitude as magnitude
