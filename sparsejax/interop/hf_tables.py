"""Which field of config.json each axis of each tensor is, family by family.

Read off transformers 5.24. Names are those on disk; a star stands for a number, and a name counts from any dot on.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

#: What config.json holds.
Config = dict[str, Any]
#: ``rule(new, old, names)`` raises `FileError` where the family does not allow the new numbers.
Rule = Callable[[Config, Config, frozenset[str]], None]


class Axis(NamedTuple):
    """The size of an axis: ``unit · Σ fields // divisor``.

    Attributes:
      fields: names in config.json; a list's entry as ``hidden_sizes.0``. One that stands twice counts twice.
      unit: the field of the features of one head, or empty.
      divisor: of a bottleneck.
    """

    fields: tuple[str, ...]
    unit: str = ""
    divisor: int = 1


#: Name of a tensor -> its axes; a text is a field by itself, None any size.
Table = Mapping[str, tuple[Axis | str | None, ...]]


class Family(NamedTuple):
    """What is known of a model_type.

    Attributes:
      table: the tensors, of a config.
      layers: names of the lists of layers -> the field that counts them.
      head_dim: the field of the features of one head; "head_dim" without `free_head_dim` is no field of the family.
      width: the field of the residual width.
      heads: the field of the query heads.
      free_head_dim: None where features of heads cannot be cut (rotary positions), "field" where the family has one,
        "quotient" where it is width / heads.
      rules: what else the family wants of its numbers.
      renames: patterns of names in memory -> names on disk.
      experts: the parts of fused experts, name in memory -> names of one expert's on disk, cut along its rows.
      count: the field of the experts, and its other names.
    """

    table: Callable[[Config], Table]
    layers: Mapping[str, str]
    head_dim: str = "head_dim"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    free_head_dim: str | None = None
    rules: tuple[Rule, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    experts: Mapping[str, tuple[str, ...]] = {}
    count: tuple[str, ...] = ()


def _with_bias(name: str, rows: Axis | str | None, columns: Axis | str | None) -> Table:
    """A linear layer, (rows, columns) as torch.nn.Linear has it."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, size: Axis | str) -> Table:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def decoder(inner: str = "intermediate_size") -> Callable[[Config], Table]:
    """Llama and its relatives; `inner` is the field of the dense FFN."""
    width, q = "hidden_size", Axis(("num_attention_heads",), "head_dim")
    kv = Axis(("num_key_value_heads",), "head_dim")
    table: dict[str, Any] = {
        "embed_tokens.weight": ("vocab_size", width), "norm.weight": (width,),
        "lm_head.weight": ("vocab_size", width), "score.weight": (None, width),
        "layers.*.mlp.gate_up_proj.weight": (Axis((inner, inner)), width),
        "layers.*.self_attn.q_norm.weight": ("head_dim",), "layers.*.self_attn.k_norm.weight": ("head_dim",),
    }  # fmt: skip
    for name in ("input", "post_attention"):
        table |= _norm(f"layers.*.{name}_layernorm", width)
    for name in ("pre", "post"):
        table |= _norm(f"layers.*.{name}_feedforward_layernorm", width)
    attention = "layers.*.self_attn"
    table |= _with_bias(f"{attention}.o_proj", width, q) | _with_bias(f"{attention}.q_proj", q, width)
    table |= _with_bias(f"{attention}.k_proj", kv, width) | _with_bias(f"{attention}.v_proj", kv, width)
    queries, keys = "num_attention_heads", "num_key_value_heads"
    table |= _with_bias(f"{attention}.qkv_proj", Axis((queries, keys, keys), "head_dim"), width)
    table |= _with_bias("layers.*.mlp.gate_proj", inner, width) | _with_bias(
        "layers.*.mlp.up_proj", inner, width
    )
    table |= _with_bias("layers.*.mlp.down_proj", width, inner)
    return lambda config: table


def mixture(count: str, inner: str) -> Callable[[Config], Table]:
    """A decoder whose FFN is a mixture; experts fused as in memory, or one by one as on disk."""
    width, shared = "hidden_size", "shared_expert_intermediate_size"
    table: dict[str, Any] = dict(decoder()({}))
    for block in ("mlp", "block_sparse_moe"):
        table |= {
            f"layers.*.{block}.gate.weight": (count, width),
            f"layers.*.{block}.experts.gate_up_proj": (count, Axis((inner, inner)), width),
            f"layers.*.{block}.experts.down_proj": (count, width, inner),
        }
        for name in ("gate_proj", "up_proj", "w1", "w3"):
            table[f"layers.*.{block}.experts.*.{name}.weight"] = (inner, width)
        for name in ("down_proj", "w2"):
            table[f"layers.*.{block}.experts.*.{name}.weight"] = (width, inner)
    for name in ("gate_proj", "up_proj"):
        table[f"layers.*.mlp.shared_expert.{name}.weight"] = (shared, width)
    table["layers.*.mlp.shared_expert.down_proj.weight"] = (width, shared)
    table["layers.*.mlp.shared_expert_gate.weight"] = (None, width)
    return lambda config: table


def gpt2(config: Config) -> Table:
    """GPT-2: linear layers as (in, out), queries, keys and values in one."""
    width, inner = "n_embd", "n_inner"
    q, qkv = Axis(("n_head",), "head_dim"), Axis(("n_head",) * 3, "head_dim")
    table: dict[str, Any] = {
        "wte.weight": ("vocab_size", width), "wpe.weight": ("n_positions", width),
        "lm_head.weight": ("vocab_size", width), "score.weight": (None, width),
        "h.*.attn.c_attn.weight": (width, qkv), "h.*.attn.c_attn.bias": (qkv,),
        "h.*.attn.c_proj.weight": (q, width), "h.*.attn.c_proj.bias": (width,),
        "h.*.mlp.c_fc.weight": (width, inner), "h.*.mlp.c_fc.bias": (inner,),
        "h.*.mlp.c_proj.weight": (inner, width), "h.*.mlp.c_proj.bias": (width,),
    }  # fmt: skip
    return table | _norm("h.*.ln_1", width) | _norm("h.*.ln_2", width) | _norm("ln_f", width)


def opt(config: Config) -> Table:
    """OPT: learned positions, and a projection where embeddings are narrower."""
    width, q, outer = "hidden_size", Axis(("num_attention_heads",), "head_dim"), "word_embed_proj_dim"
    table: dict[str, Any] = {
        "embed_tokens.weight": ("vocab_size", outer), "embed_positions.weight": (None, width),
        "lm_head.weight": ("vocab_size", outer), "project_in.weight": (width, outer),
        "project_out.weight": (outer, width),
    }  # fmt: skip
    for name in ("q_proj", "k_proj", "v_proj"):
        table |= _with_bias(f"layers.*.self_attn.{name}", q, width)
    table |= _with_bias("layers.*.self_attn.out_proj", width, q)
    table |= _with_bias("layers.*.fc1", "ffn_dim", width) | _with_bias("layers.*.fc2", width, "ffn_dim")
    for name in ("layers.*.self_attn_layer_norm", "layers.*.final_layer_norm", "decoder.final_layer_norm"):
        table |= _norm(name, width)
    return table


def _encoder_layer(attention: str, out: str) -> dict[str, Any]:
    """One layer of BERT or ViT, whose names differ in these two."""
    width, inner, q = "hidden_size", "intermediate_size", Axis(("num_attention_heads",), "head_dim")
    table: dict[str, Any] = {}
    for name in ("query", "key", "value"):
        table |= _with_bias(f"encoder.layer.*.attention.{attention}.{name}", q, width)
    table |= _with_bias(f"encoder.layer.*.attention.{out}", width, q)
    table |= _with_bias("encoder.layer.*.intermediate.dense", inner, width)
    return table | _with_bias("encoder.layer.*.output.dense", width, inner)


def bert(config: Config) -> Table:
    """BERT and its like: embeddings, encoder layers, pooler and heads."""
    width = "hidden_size"
    table: dict[str, Any] = {
        f"embeddings.{name}_embeddings.weight": (None, width) for name in ("position", "token_type")
    }
    table |= {"embeddings.word_embeddings.weight": ("vocab_size", width)}
    table |= _encoder_layer("self", "output.dense") | _norm("embeddings.LayerNorm", width)
    table |= _norm("encoder.layer.*.attention.output.LayerNorm", width)
    table |= _norm("encoder.layer.*.output.LayerNorm", width)
    for name in ("pooler.dense", "cls.predictions.transform.dense", "classifier.dense", "lm_head.dense"):
        table |= _with_bias(name, width, width)
    for name in ("cls.predictions.transform.LayerNorm", "lm_head.layer_norm"):
        table |= _norm(name, width)
    for name in ("cls.predictions.decoder", "lm_head.decoder"):
        table |= _with_bias(name, "vocab_size", width)
    for name in ("classifier", "classifier.out_proj", "qa_outputs", "cls.seq_relationship"):
        table |= _with_bias(name, None, width)
    return table | {"cls.predictions.bias": ("vocab_size",), "lm_head.bias": ("vocab_size",)}


def vit(config: Config) -> Table:
    """ViT: tokens and positions of the width, patches by a convolution."""
    width = "hidden_size"
    table: dict[str, Any] = {f"embeddings.{name}": (None, None, width) for name in
             ("cls_token", "mask_token", "position_embeddings")}  # fmt: skip
    table |= {"patch_embeddings.projection.weight": (width, None, None, None)}
    table |= {"patch_embeddings.projection.bias": (width,)}
    table |= _encoder_layer("attention", "output.dense") | _norm("layernorm", width)
    for name in ("layernorm_before", "layernorm_after"):
        table |= _norm(f"encoder.layer.*.{name}", width)
    return (
        table
        | _with_bias("classifier", None, width)
        | _with_bias("pooler.dense", "pooler_output_size", width)
    )


def t5(config: Config) -> Table:
    """T5: two stacks that share embeddings; the width inside heads is a field of its own."""
    width, q = "d_model", Axis(("num_heads",), "d_kv")
    table: dict[str, Any] = {"shared.weight": ("vocab_size", width), "lm_head.weight": ("vocab_size", width)}
    for side in ("encoder", "decoder"):
        table |= {
            f"{side}.final_layer_norm.weight": (width,),
            f"{side}.embed_tokens.weight": ("vocab_size", width),
        }
        table[f"{side}.block.*.layer.*.layer_norm.weight"] = (width,)
        for attention in ("SelfAttention", "EncDecAttention"):
            base = f"{side}.block.*.layer.*.{attention}"
            table |= {f"{base}.{name}.weight": (q, width) for name in ("q", "k", "v")}
            table |= {
                f"{base}.o.weight": (width, q),
                f"{base}.relative_attention_bias.weight": (None, "num_heads"),
            }
        base = f"{side}.block.*.layer.*.DenseReluDense"
        table |= {f"{base}.{name}.weight": ("d_ff", width) for name in ("wi", "wi_0", "wi_1")}
        table[f"{base}.wo.weight"] = (width, "d_ff")
    return table


def resnet(config: Config) -> Table:
    """ResNet: the channels of each stage and of the stem are fields."""
    table: dict[str, Any] = {}

    def convolution(name: str, out: Axis, into: Axis | str | None) -> None:
        table[f"{name}.convolution.weight"] = (out, into, None, None)
        for part in ("weight", "bias", "running_mean", "running_var"):
            table[f"{name}.normalization.{part}"] = (out,)
        table[f"{name}.normalization.num_batches_tracked"] = ()

    before = Axis(("embedding_size",))
    convolution("embedder.embedder", before, None)
    for stage, depth in enumerate(config["depths"]):
        width = Axis((f"hidden_sizes.{stage}",))
        inner = [width] if config.get("layer_type") == "basic" else [width._replace(divisor=4)] * 2
        for layer in range(depth):
            name, sizes = f"encoder.stages.{stage}.layers.{layer}", [before, *inner, width]
            convolution(f"{name}.shortcut", width, before)
            for number, (into, out) in enumerate(itertools.pairwise(sizes)):
                convolution(f"{name}.layer.{number}", out, into)
            before = width
    return table | _with_bias("classifier.1", None, before)
