"""The peer's half of the training comparison: a GPT in PyTorch, dense and with sparselab's layers; rows as JSON lines.

Run by `experiments.benchmark.kernels` with a Python that has torch and sparselab. Theirs are unstructured masks, ours
are blocks.
"""

import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

#: Width, depth, heads, hidden units, tokens an example, examples a step, steps.
SIZES = {"quick": (64, 1, 2, 256, 32, 2, 3), "full": (640, 8, 10, 2560, 128, 4, 200)}
SPARSITY = 0.9


def main(size: str, steps: int | None = None) -> None:
    """Trains both, a step of each in turn (as many as the size says, or `steps`), and prints their rows."""
    import sparselab
    import torch

    torch.manual_seed(0)
    *sizes, length, batch, usual = SIZES[size]
    steps = usual if steps is None else steps
    dense = lambda n, m: torch.nn.Linear(n, m)  # noqa: E731
    sparse = lambda n, m: sparselab.SparseLinear(n, m, sparsity=SPARSITY)  # noqa: E731
    models = {
        name: _gpt(torch, *sizes, linear) for name, linear in (("torch, dense", dense), ("sparselab", sparse))
    }
    algorithm = sparselab.RigL(sparsity=SPARSITY, update_freq=100, seed=0)
    models["sparselab"].apply(algorithm)
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-3) for name, model in models.items()}
    text = _text(torch)
    times: dict[str, list[float]] = {name: [] for name in models}
    losses: dict[str, float] = {}
    for _ in range(steps):
        begin = torch.randint(len(text) - length - 1, (batch, 1)) + torch.arange(length + 1)
        for name, model in models.items():
            start = time.perf_counter()
            losses[name] = _step(torch, model, optimizers[name], text[begin])
            if name == "sparselab":
                algorithm.step()
            times[name].append(time.perf_counter() - start)
    base = statistics.median(times["torch, dense"])
    for name, model in models.items():
        seconds = statistics.median(times[name][1:])
        numbers = sum(parameter.numel() for parameter in model.parameters())
        row = {
            "case": name, "median_ms": round(seconds * 1e3, 2), "speedup_over_torch": round(base / seconds, 3),
            "tokens": batch * length, "steps": steps, "loss": round(losses[name], 3), "trained_numbers": numbers,
        }  # fmt: skip
        print(json.dumps(row), flush=True)


def _gpt(torch: Any, width: int, depth: int, heads: int, hidden: int, linear: Callable[..., Any]) -> Any:
    """A byte-level GPT whose feed-forward layers are made by `linear`."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = linear(width, hidden), linear(hidden, width)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            parts = (
                self.qkv(self.norms[0](x))
                .view(batch, length, 3, heads, width // heads)
                .permute(2, 0, 3, 1, 4)
            )
            mixed = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
            return x + self.down(nn.functional.gelu(self.up(self.norms[1](x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.positions = nn.Embedding(256, width), nn.Embedding(1024, width)
            self.blocks, self.norm = nn.Sequential(*[Block() for _ in range(depth)]), nn.LayerNorm(width)
            nn.init.normal_(self.embedding.weight, std=0.02)

        def forward(self, tokens: Any) -> Any:
            x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
            return self.norm(self.blocks(x)) @ self.embedding.weight.T

    return GPT()


def _step(torch: Any, model: Any, optimizer: Any, tokens: Any) -> float:
    logits = model(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 256), tokens[:, 1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _text(torch: Any) -> Any:
    """The source of Python's standard library, as `python_text` has it, as far as one file a module goes."""
    folder = pathlib.Path(statistics.__file__).parent
    data = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
