"""The searchers: each asks for losses and is told them."""
