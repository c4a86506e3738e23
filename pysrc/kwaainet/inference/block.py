"""The nodes of one transformer block in a span's graph.

Follows Hugging Face's decoder layers and onnxruntime's ContribOperators.md. Rule of the file: a block is
one fixed sequence of stages; what only some models have is a stage that is there if its tensor is, an
attribute that is there if its field is set, or a row of a table.

Experts are all computed for all tokens, each weighed by what the router gives it, zero for most: exact on
any runtime and, with E experts of which k are meant, E / k times the work of the best.
"""

from __future__ import annotations

from collections.abc import Callable

from ..formats.config import ModelConfig
from .onnx import MICROSOFT, Attribute, ElementType, node
from .rope import table_names

# QuickGelu(x) is x * sigmoid(alpha * x): with alpha 1 it is SiLU in one kernel. FastGelu is GELU by tanh.
_ACTIVATIONS: dict[str, tuple[str, dict[str, Attribute]]] = {
    "silu": ("QuickGelu", {"alpha": 1.0}),
    "gelu_pytorch_tanh": ("FastGelu", {}),
}
_UNLIKELY = -6e4  # a logit that softmax makes zero, and that half precision has


class Block:
    """Appends one block's nodes; values are named after the tensor they come from, with ``.y`` behind it."""

    def __init__(
        self,
        nodes: list[bytes],
        config: ModelConfig,
        index: int,
        position: int,
        tensors: frozenset[str],
        product: Callable[[str, str, str], bytes],
        real: ElementType,
    ) -> None:
        """``index`` counts the model's blocks, ``position`` the span's; ``tensors`` are those it has.

        ``product`` writes the node of a value times a matrix, of both names and that of the result.
        """
        self._nodes, self._config, self._index, self._tensors = nodes, config, index, tensors
        self._write_product, self._real = product, real
        self._position = position
        self._at = f"{position}."

    def write(self, stream: str, update: str) -> tuple[str, str]:
        """Returns the new stream and the update still to be added to it.

        Adding the update is left to the next norm, which onnxruntime fuses with the addition.
        """
        stream = self._norm(stream, update, "input_norm")
        qkv = self._product(f"{self._at}input_norm.y", "qkv")
        attended = self._product(self._attention(self._if("qkv_bias", self._bias, qkv)), "o")
        attended = self._if("attention_norm", self._plain_norm, attended)
        stream = self._norm(stream, attended, "post_norm")
        mlp = self._experts if "router" in self._tensors else self._mlp
        return stream, self._if("mlp_norm", self._plain_norm, mlp(f"{self._at}post_norm.y"))

    def _if(self, tensor: str, stage: Callable[[str, str], str], x: str) -> str:
        """``stage`` of ``x`` and ``tensor`` in blocks that have the tensor; ``x`` itself in others."""
        return stage(x, tensor) if tensor in self._tensors else x

    def _add(
        self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Attribute
    ) -> str:
        self._nodes.append(node(operator, inputs, [f"{self._at}{output}"], domain, **attributes))
        return f"{self._at}{output}"

    def _constant(self, output: str, *numbers: int) -> str:
        return self._add("Constant", [], output, value_ints=numbers)

    def _product(self, x: str, tensor: str) -> str:
        output = f"{self._at}{tensor}.y"
        self._nodes.append(self._write_product(x, f"{self._at}{tensor}", output))
        return output

    def _bias(self, x: str, tensor: str) -> str:
        return self._add("Add", [x, f"{self._at}{tensor}"], f"{tensor}.y")

    def _plain_norm(self, x: str, tensor: str) -> str:
        """RMS norm over the last axis."""
        return self._add(
            "SimplifiedLayerNormalization",
            [x, f"{self._at}{tensor}"],
            f"{tensor}.y",
            axis=-1,
            epsilon=float(self._config.rms_norm_eps),
            stash_type=1,
        )

    def _norm(self, stream: str, update: str, tensor: str) -> str:
        """RMS norm of stream + update as ``{tensor}.y``; returns the name of the sum."""
        if not update:
            self._plain_norm(stream, tensor)
            return stream
        name = f"{self._at}{tensor}"
        outputs = [f"{name}.y", "", "", f"{name}.sum"]
        epsilon = float(self._config.rms_norm_eps)
        self._nodes.append(
            node(
                "SkipSimplifiedLayerNormalization",
                [stream, update, name],
                outputs,
                MICROSOFT,
                epsilon=epsilon,
            )
        )
        return f"{name}.sum"

    def _attention(self, qkv: str) -> str:
        """Rotary embedding, cache update and causal grouped-query attention of the packed q, k, v."""
        config, position = self._config, self._position
        past = [f"past_k.{position}", f"past_v.{position}"]
        window, cap = config.window(self._index), config.attn_logit_softcapping
        optional: dict[str, Attribute] = {} if window is None else {"local_window_size": window}
        optional |= {} if cap is None else {"softcap": float(cap)}
        output = f"{self._at}attention.y"
        self._nodes.append(
            node(
                "GroupQueryAttention",
                [*self._queries(qkv), *past, "seqlens_k", "total_seq", *table_names(config, self._index)],
                [output, f"present_k.{position}", f"present_v.{position}"],
                MICROSOFT,
                num_heads=config.num_attention_heads,
                kv_num_heads=config.num_key_value_heads,
                do_rotary=1,
                rotary_interleaved=0,
                scale=config.attention_scale,
                **optional,
            )
        )
        return output

    def _queries(self, qkv: str) -> list[str]:
        """The first three inputs of the attention: q, k and v, or one for all three.

        Where heads have norms, these need them apart.
        """
        if "q_norm" not in self._tensors:
            return [qkv, "", ""]
        config = self._config
        counts = config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads
        sizes = self._constant("qkv.sizes", *(count * config.head_dim for count in counts))
        parts = [f"{self._at}{letter}" for letter in "qkv"]
        self._nodes.append(node("Split", [qkv, sizes], parts, axis=-1))
        return [self._head_norm("q", counts[0]), self._head_norm("k", counts[1]), parts[2]]

    def _head_norm(self, letter: str, heads: int) -> str:
        apart = self._constant(f"{letter}.heads", 0, 0, heads, self._config.head_dim)
        joined = self._constant(f"{letter}.joined", 0, 0, heads * self._config.head_dim)
        split = self._add("Reshape", [f"{self._at}{letter}", apart], f"{letter}.split")
        normed = self._plain_norm(split, f"{letter}_norm")
        return self._add("Reshape", [normed, joined], f"{letter}.normed")

    def _mlp(self, x: str, prefix: str = "") -> str:
        at = f"{self._at}{prefix}"
        product = self._product(x, f"{prefix}gate_up")
        self._nodes.append(node("Split", [product], [f"{at}gate", f"{at}up"], axis=-1, num_outputs=2))
        operator, attributes = _ACTIVATIONS[self._config.hidden_act]
        active = self._add(operator, [f"{at}gate"], f"{prefix}silu", MICROSOFT, **attributes)
        inner = self._add("Mul", [active, f"{at}up"], f"{prefix}inner")
        return self._product(inner, f"{prefix}down")

    def _experts(self, x: str) -> str:
        """The weighed sum of all experts; weights are zero but for those of the best few logits."""
        count = self._config.num_local_experts
        shares = self._shares(self._product(x, "router"))
        parts = [f"{self._at}{expert}.share" for expert in range(count)]
        self._nodes.append(node("Split", [shares], parts, axis=-1, num_outputs=count))
        total = ""
        for expert, share in enumerate(parts):
            part = self._add("Mul", [self._mlp(x, f"{expert}."), share], f"{expert}.part")
            total = self._add("Add", [total, part], f"{expert}.total") if total else part
        return total

    def _shares(self, logits: str) -> str:
        """[batch, tokens, experts]: the softmax over the best few of the logits, and zeros."""
        best = self._constant("router.count", self._config.num_experts_per_tok)
        self._nodes.append(
            node("TopK", [logits, best], [f"{self._at}router.best", f"{self._at}router.places"], axis=-1)
        )
        axis = self._constant("router.axis", -1)
        least = self._add("ReduceMin", [f"{self._at}router.best", axis], "router.least", keepdims=1)
        enough = self._add("GreaterOrEqual", [logits, least], "router.enough")
        unlikely = self._add("Constant", [], "router.unlikely", value_float=_UNLIKELY)
        if self._real is not ElementType.FLOAT:
            unlikely = self._add("Cast", [unlikely], "router.unlikely.real", to=int(self._real))
        masked = self._add("Where", [enough, logits, unlikely], "router.masked")
        return self._add("Softmax", [masked], "router.shares", axis=-1)
