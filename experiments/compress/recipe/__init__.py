"""Recipes of several stages: each stage a config with a name and a function, resumable one by one."""
