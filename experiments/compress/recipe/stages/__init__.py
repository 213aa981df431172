"""The functions of the stages that a recipe may name."""
