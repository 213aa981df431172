"""Families of Hugging Face: their tables, and what each does not allow of smaller numbers."""

from collections.abc import Callable, Mapping

from sparsejax.errors import FileError
from sparsejax.interop import hf_tables as tables
from sparsejax.interop.hf_tables import Config, Family, Rule, Table


def _heads_in_groups(new: Config, old: Config, names: frozenset[str]) -> None:
    heads, groups = new["num_attention_heads"], new.get("num_key_value_heads") or new["num_attention_heads"]
    if heads % groups:
        raise FileError(
            f"{heads} query heads (num_attention_heads) do not share {groups} key-value heads (num_key_value_heads) "
            "evenly, and every key-value head must serve as many. Cut query heads alike in every group."
        )


def _width_of_heads(new: Config, old: Config, names: frozenset[str]) -> None:
    if new["hidden_size"] % new["num_attention_heads"]:
        raise FileError(
            f"hidden_size {new['hidden_size']} is no multiple of num_attention_heads {new['num_attention_heads']}: "
            "transformers refuses such a config of this family, though head_dim says the rest. Keep a number of heads "
            "that divides the width, or cut the width to a multiple (round_to=)."
        )


def _heads_fill_the_width(width: str, heads: str) -> Rule:
    def rule(new: Config, old: Config, names: frozenset[str]) -> None:
        if new[heads] * new["head_dim"] != new[width]:
            raise FileError(
                f"{heads} {new[heads]} of {new['head_dim']} features are not {width} {new[width]}: this family has no "
                f"field for the features of a head, which are {width} / {heads}. Cut heads and width in the same "
                "share, or neither; masks instead of cuts keep what is left of the heads in place."
            )

    return rule


def _layers_know_their_place(new: Config, old: Config, names: frozenset[str]) -> None:
    if new.get("scale_attn_by_inverse_layer_idx") and new["n_layer"] != old["n_layer"]:
        raise FileError(
            "n_layer: layers cannot be dropped under scale_attn_by_inverse_layer_idx, which scales attention by the "
            "number of the layer."
        )


def _projections(new: Config, old: Config, names: frozenset[str]) -> None:
    has = any(name.endswith("project_in.weight") for name in names)
    if has != (new["word_embed_proj_dim"] != new["hidden_size"]):
        raise FileError(
            f"hidden_size {new['hidden_size']} and word_embed_proj_dim {new['word_embed_proj_dim']}: transformers "
            f"would build project_in where they differ, and the parameters have {'one' if has else 'none'}."
        )


def _enough_experts(count: str) -> Rule:
    def rule(new: Config, old: Config, names: frozenset[str]) -> None:
        if new[count] < new["num_experts_per_tok"]:
            raise FileError(
                f"{count} {new[count]} is less than num_experts_per_tok {new['num_experts_per_tok']}: keep as many."
            )

    return rule


def _shortcut(new: Config, old: Config, names: frozenset[str]) -> None:
    first, width = new["embedding_size"], new["hidden_sizes"][0]
    has = any(name.endswith("stages.0.layers.0.shortcut.convolution.weight") for name in names)
    if has != (first != width or bool(new.get("downsample_in_first_stage"))):
        raise FileError(
            f"embedding_size {first} and hidden_sizes[0] {width}: transformers would "
            f"{'leave out' if has else 'add'} the first stage's shortcut, which the parameters "
            f"{'have' if has else 'lack'}. Cut one of them to another width."
        )


# ---- the families

_QWEN = {
    "mlp.experts.gate_up_proj": ("gate_proj", "up_proj"),
    "mlp.experts.down_proj": ("down_proj",),
}
_MIXTRAL = {
    "block_sparse_moe.experts.gate_up_proj": ("w1", "w3"),
    "block_sparse_moe.experts.down_proj": ("w2",),
}
_LAYERS = {"layers": "num_hidden_layers"}
_LLAMA = Family(tables.decoder(), _LAYERS, rules=(_heads_in_groups, _width_of_heads))
_FREE = _LLAMA._replace(rules=(_heads_in_groups,))
_BERT = Family(
    tables.bert,
    {"encoder.layer": "num_hidden_layers"},
    free_head_dim="quotient",
    rules=(_heads_fill_the_width("hidden_size", "num_attention_heads"),),
)
_VIT_NAMES = (
    (r"\blayers\.(\d+)\.attention\.q_proj\.", r"encoder.layer.\1.attention.attention.query."),
    (r"\blayers\.(\d+)\.attention\.k_proj\.", r"encoder.layer.\1.attention.attention.key."),
    (r"\blayers\.(\d+)\.attention\.v_proj\.", r"encoder.layer.\1.attention.attention.value."),
    (r"\blayers\.(\d+)\.attention\.o_proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"\blayers\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"\blayers\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
    (r"\blayers\.(\d+)\.layernorm", r"encoder.layer.\1.layernorm"),
)


def _mixture_family(
    table: Callable[[Config], Table], experts: Mapping[str, tuple[str, ...]], *count: str
) -> Family:
    return _FREE._replace(
        table=table, rules=(_heads_in_groups, _enough_experts(count[0])), experts=experts, count=count
    )


#: ``model_type`` of config.json -> what its tensors and fields are called.
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "gemma2": _LLAMA,
    "gemma": _FREE,
    "mistral": _FREE,
    "qwen2": _FREE,
    "qwen3": _FREE,
    "phi3": _FREE,
    "mixtral": _mixture_family(
        tables.mixture("num_local_experts", "intermediate_size"), _MIXTRAL, "num_local_experts"
    )._replace(renames=((r"\.mlp\.", ".block_sparse_moe."),)),
    "qwen2_moe": _mixture_family(
        tables.mixture("num_experts", "moe_intermediate_size"), _QWEN, "num_experts"
    ),
    "qwen3_moe": _mixture_family(
        tables.mixture("num_experts", "moe_intermediate_size"), _QWEN, "num_experts", "num_local_experts"
    ),
    "gpt2": Family(
        tables.gpt2,
        {"h": "n_layer"},
        width="n_embd",
        heads="n_head",
        free_head_dim="quotient",
        rules=(_heads_fill_the_width("n_embd", "n_head"), _layers_know_their_place),
    ),
    "opt": Family(
        tables.opt,
        _LAYERS,
        free_head_dim="quotient",
        rules=(_heads_fill_the_width("hidden_size", "num_attention_heads"), _projections),
    ),
    "bert": _BERT,
    "roberta": _BERT,
    "vit": Family(
        tables.vit, {"encoder.layer": "num_hidden_layers"}, free_head_dim="field", renames=_VIT_NAMES
    ),
    "t5": Family(
        tables.t5,
        {"encoder.block": "num_layers", "decoder.block": "num_decoder_layers"},
        head_dim="d_kv",
        width="d_model",
        heads="num_heads",
        free_head_dim="field",
    ),
    "resnet": Family(tables.resnet, {}, width="", heads="", rules=(_shortcut,)),
}
