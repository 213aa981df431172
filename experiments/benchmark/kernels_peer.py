"""The peer's half of the training comparison: a GPT in PyTorch, dense and with sparselab's layers.

Run by `peer_process` with a Python that has torch and sparselab:  python kernels_peer.py SIZE TOKENS

TOKENS holds bytes, (batch, length + 1) a step, over and over. A line on standard input asks for a step of each model
and is answered by a line of JSON, its seconds and loss by model; when there are no more, a last line says what each
keeps in memory. Theirs are unstructured masks, ours are blocks.
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

#: Width, depth, heads, hidden units, tokens an example, examples a step, steps.
SIZES = {"quick": (64, 1, 2, 256, 32, 2, 6), "cpu": (640, 8, 10, 2560, 128, 1, 200)}
SPARSITY = 0.9


def main(size: str, path: str) -> None:
    """Makes both models, then trains as long as it is asked to."""
    import sparselab
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    *sizes, length, batch, _ = SIZES[size]
    tokens = torch.frombuffer(bytearray(pathlib.Path(path).read_bytes()), dtype=torch.uint8)
    batches = tokens.view(-1, batch, length + 1).long()
    dense = lambda n, m: torch.nn.Linear(n, m)  # noqa: E731
    sparse = lambda n, m: sparselab.SparseLinear(n, m, sparsity=SPARSITY)  # noqa: E731
    models = {
        name: _gpt(torch, *sizes, linear) for name, linear in (("torch, dense", dense), ("sparselab", sparse))
    }
    algorithm = sparselab.RigL(sparsity=SPARSITY, update_freq=100, seed=0)
    models["sparselab"].apply(algorithm)
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-3) for name, model in models.items()}
    print(json.dumps(list(models)), flush=True)
    for number, _ in enumerate(sys.stdin):
        said = {}
        for name, model in models.items():
            start = time.perf_counter()
            loss = _step(torch, model, optimizers[name], batches[number % len(batches)])
            if name == "sparselab":
                algorithm.step()
            said[name] = [time.perf_counter() - start, loss]
        print(json.dumps(said), flush=True)
    print(json.dumps({name: _memory(model, optimizers[name]) for name, model in models.items()}), flush=True)


def _memory(model: Any, optimizer: Any) -> int:
    """Bytes of parameters, their gradients, buffers, and the optimizer's moments."""
    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    moments = [value for state in optimizer.state.values() for value in state.values()]
    held = [*parameters, *gradients, *model.buffers(), *(m for m in moments if hasattr(m, "numel"))]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


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


if __name__ == "__main__":
    main(*sys.argv[1:])
