"""The command for Hugging Face models: its table, what it refuses, and a small random Llama from folder to table."""

import argparse

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import prune_hf
from experiments.errors import ConfigError
from sparsejax.post_training import perplexity
from tests.tracing.functions import normal

OPTIONS = argparse.Namespace(window=16, windows=8, batch=2, workdir=None)


def test_rows_that_were_not_run_say_so():
    text = prune_hf.table({"dense": 5.1234, "alps 2:4": 9.5}, "mine")
    assert "| dense | 5.12 | 5.12 |" in text
    assert "| wanda 50 % | 6.42 | not run |" in text
    assert "| alps 2:4 | – | 9.50 |" in text


def model(params, tokens):
    x = params["embedding"][tokens]
    return x + jnp.tanh(x @ params["layers.0.weight"]) @ params["lm_head.weight"]


def test_a_row_prunes_the_blocks_alone():
    params = {name: normal(11, 11) for name in ("embedding", "layers.0.weight", "lm_head.weight")}
    tokens = np.random.default_rng(0).integers(0, 11, 400)
    dense = prune_hf.measure(model, params, "dense", tokens, tokens, OPTIONS)
    assert dense == perplexity(model, params, tokens, 16, batch_size=2).perplexity
    pruned = prune_hf.measure(model, params, "magnitude 50 %", tokens, tokens, OPTIONS)
    w = np.asarray(params["layers.0.weight"])
    order = np.sort(np.abs(w), None)
    by_hand = [
        perplexity(
            model, {**params, "layers.0.weight": np.where(np.abs(w) >= least, w, 0)}, tokens, 16
        ).perplexity
        for least in order[[60, 61]]  # half of 121 weights
    ]
    assert np.isclose(pruned, by_hand, rtol=1e-5).any()
    with pytest.raises(ConfigError, match="no two batches"):
        prune_hf.measure(model, params, "wanda 50 %", tokens, tokens[:20], OPTIONS)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_a_small_llama_from_its_folder_to_the_table(tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="the extra torch")
    transformers = pytest.importorskip("transformers", reason="the extra torch")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, vocab_size=50, max_position_embeddings=64,
    )  # fmt: skip
    llama = transformers.LlamaForCausalLM(config).eval()
    llama.save_pretrained(tmp_path / "llama")
    text = np.random.default_rng(0).integers(3, 40, 16 * 24)
    np.save(tmp_path / "tokens.npy", text)
    common = [f"--model={tmp_path / 'llama'}", f"--tokens={tmp_path / 'tokens.npy'}", "--window=16"]
    common += [f"--calibration={tmp_path / 'tokens.npy'}", "--windows=24", "--batch=4"]
    assert prune_hf.main([*common, "--rows", "dense", "sparsegpt 2:4"]) == 0
    said = capsys.readouterr()
    assert "model.layers.1.mlp.down_proj.weight" in said.err
    assert "lm_head" not in said.err
    assert "| wanda 2:4 | 11.02 | not run |" in said.out
    with torch.no_grad():
        windows = torch.tensor(text.reshape(-1, 16))
        logits = llama(windows).logits[:, :-1].reshape(-1, 50)
        expected = torch.nn.functional.cross_entropy(logits, windows[:, 1:].reshape(-1)).exp()
    assert f"dense: {float(expected):.2f}" in said.out
    assert prune_hf.main([*common[1:], f"--model={tmp_path / 'none'}"]) == 2


def test_windows_of_nothing_are_refused(capsys):
    files = ["--model=none", "--tokens=none.npy", "--calibration=none.npy"]
    for wrong in ("--window=1", "--windows=0", "--batch=0"):
        assert prune_hf.main([*files, wrong]) == 2
        assert "at least 2 tokens" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_refused(tmp_path):
    for tokens in (np.zeros((2, 3), int), np.zeros(3)):
        np.save(tmp_path / "tokens.npy", tokens)
        with pytest.raises(ConfigError, match="is no row of whole numbers"):
            prune_hf.read_tokens(str(tmp_path / "tokens.npy"), "")
    with pytest.raises(ConfigError, match="cannot be read as tokens"):
        prune_hf.read_tokens(str(tmp_path / "none.npy"), "")
