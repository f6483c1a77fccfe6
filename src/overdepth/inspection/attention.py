"""Query-key and value-output pairs of attention, head by head.

A head's scores are x^T W_q^T W_k y: the factors, in the order in which they act on the key's input y, are W_k and
W_q^T, and the imbalance is W_q W_q^T - W_k W_k^T. Its output is W_o W_v y: factors W_v and W_o, imbalance
W_o^T W_o - W_v W_v^T.

Where several query heads share a key-value head, its W_k is one factor of all their scores: the chain is W_k and the
W_q^T of the group one below the other, so that its imbalance sums W_q W_q^T over the group. That sum is what gradient
flow keeps; a single head's difference is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from overdepth.inspection.chains import Chain, Findings
from overdepth.inspection.matrices import LeftOutError, Matrix, has_bias, is_linear, matrix, single_matrix
from overdepth.nn.classes import is_overparameterized, qualified

_QUERY_KEY_VALUE = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
)
_OUTPUT = ("o_proj", "out_proj", "out_lin", "to_out", "to_out.0", "wo", "o", "c_proj", "dense", "proj")
_FUSED = ("query_key_value", "qkv", "qkv_proj", "Wqkv", "in_proj_qkv", "W_pack", "c_attn")
_HEAD_WIDTHS = ("head_dim", "attention_head_size", "head_size", "dim_head", "key_value_proj_dim")
_HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
_UNPACKED = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
_NORM = re.compile(r"(q|k|query|key)_?(layer_?)?norm")
BIASES = "biases are no part of the product"
ROTARY = "rotary positions: the product of equal positions"


class _Projections(NamedTuple):
    """The matrices of one attention module; ``output`` may be missing, with the reason."""

    query: Matrix
    key: Matrix
    value: Matrix
    output: Matrix | LeftOutError
    heads: int
    key_value_heads: int
    notes: tuple[str, ...]


def find_attention(model: nn.Module, findings: Findings) -> None:
    """Adds the pairs of every attention module."""
    modules = dict(model.named_modules())
    for prefix, module in modules.items():
        read = _reader(module)
        if read is None:
            continue
        name = prefix or type(module).__name__
        try:
            found = read(prefix, module, modules)
        except LeftOutError as error:
            findings.left_out[name] = str(error)
            continue
        norms = [child for child, _ in module.named_children() if _NORM.fullmatch(child)]
        if norms:
            findings.left_out[f"{name}, query-key"] = (
                f"{' and '.join(map(repr, norms))} normalise between the two, which is no product"
            )
        else:
            _add_query_key(name, found, findings)
        if isinstance(found.output, LeftOutError):
            findings.left_out[f"{name}, value-output"] = str(found.output)
        else:
            _add_value_output(name, found, found.output, findings)


_Reader = Callable[[str, Any, Mapping[str, nn.Module]], _Projections]


def _reader(module: nn.Module) -> _Reader | None:
    """How to read a module, if it is one of attention."""
    if isinstance(module, nn.MultiheadAttention):
        return _torch_attention
    children = dict(module.named_children())
    if any(set(names) <= children.keys() for names in _QUERY_KEY_VALUE):
        return _separate
    if "c_attn" in children and "c_proj" in children:
        return _gpt2
    if any(name in children and is_linear(children[name]) for name in _FUSED):
        return _refuse_fused
    return None


def _add_query_key(name: str, found: _Projections, findings: Findings) -> None:
    width = found.key.shape[0] // found.key_value_heads
    group = found.heads // found.key_value_heads
    for head in range(found.key_value_heads):
        key = found.key.rows(head * width, (head + 1) * width)
        query = found.query.rows(head * group * width, (head + 1) * group * width)
        factors = (key, query.transposed_heads(group))
        findings.chains.append(Chain(name, "query-key", factors, _part(head, group), notes=found.notes))


def _add_value_output(name: str, found: _Projections, output: Matrix, findings: Findings) -> None:
    width = found.value.shape[0] // found.key_value_heads
    group = found.heads // found.key_value_heads
    if output.shape[1] != found.heads * width:
        findings.left_out[f"{name}, value-output"] = (
            f"{output.parameter!r} takes {output.shape[1]} inputs, and {found.heads} heads of width {width} give "
            f"{found.heads * width}"
        )
        return
    for head in range(found.key_value_heads):
        value = found.value.rows(head * width, (head + 1) * width)
        columns = output.columns(head * group * width, (head + 1) * group * width)
        factors = (value, columns.stacked_heads(group))
        notes = tuple(note for note in found.notes if note != ROTARY)
        findings.chains.append(Chain(name, "value-output", factors, _part(head, group), notes=notes))


def _part(head: int, group: int) -> str:
    return f"head {head}" if group == 1 else f"heads {head * group} to {(head + 1) * group - 1}"


def _torch_attention(prefix: str, module: Any, modules: Mapping[str, nn.Module]) -> _Projections:
    """``torch.nn.MultiheadAttention``, packed or not."""
    del modules
    if is_overparameterized(module):
        raise LeftOutError(
            "its projections are over-parameterized themselves, and their factors are shared by all heads; fold a copy "
            "with overdepth.collapse to see the heads"
        )
    if module._parameters.get("in_proj_weight") is not None:
        packed = matrix(qualified(prefix, "in_proj_weight"), module.in_proj_weight)
        size = module.embed_dim
        query, key, value = (packed.rows(j * size, (j + 1) * size) for j in range(3))
    else:
        query, key, value = (matrix(qualified(prefix, name), module._parameters.get(name)) for name in _UNPACKED)
    notes = (BIASES,) if module.in_proj_bias is not None else ()
    output = _output(qualified(prefix, "out_proj"), module.out_proj)
    return _Projections(query, key, value, output, module.num_heads, module.num_heads, notes)


def _separate(prefix: str, module: Any, modules: Mapping[str, nn.Module]) -> _Projections:
    """A linear layer each for query, key and value, as in Hugging Face's models."""
    names = next(names for names in _QUERY_KEY_VALUE if all(hasattr(module, name) for name in names))
    query, key, value = (single_matrix(qualified(prefix, name), getattr(module, name)) for name in names)
    heads, key_value_heads = _heads(module, query, key, value)
    notes = (BIASES,) if any(has_bias(getattr(module, name)) for name in names) else ()
    if _is_rotary(module):
        notes = (*notes, ROTARY)
    output = _output_of(prefix, module, modules)
    return _Projections(query, key, value, output, heads, key_value_heads, notes)


def _gpt2(prefix: str, module: Any, modules: Mapping[str, nn.Module]) -> _Projections:
    """GPT-2's ``c_attn``: query, key and value side by side, or key and value beside a ``q_attn``."""
    packed = single_matrix(qualified(prefix, "c_attn"), module.c_attn)
    if hasattr(module, "q_attn"):
        query = single_matrix(qualified(prefix, "q_attn"), module.q_attn)
        size = packed.shape[0] // 2
        key, value = packed.rows(0, size), packed.rows(size, 2 * size)
    else:
        size = packed.shape[0] // 3
        query, key, value = (packed.rows(j * size, (j + 1) * size) for j in range(3))
    heads, key_value_heads = _heads(module, query, key, value)
    notes = (BIASES,) if has_bias(module.c_attn) else ()
    output = _output(qualified(prefix, "c_proj"), module.c_proj)
    if query.shape[0] != key.shape[0] or (isinstance(output, Matrix) and output.shape[1] != value.shape[0]):
        raise LeftOutError(f"the {packed.shape[0]} outputs of {packed.parameter!r} are not equal parts")
    return _Projections(query, key, value, output, heads, key_value_heads, notes)


def _refuse_fused(prefix: str, module: Any, modules: Mapping[str, nn.Module]) -> _Projections:
    del prefix, modules
    name = next(name for name in _FUSED if hasattr(module, name))
    raise LeftOutError(f"query, key and value are fused in {name!r}, and how they are ordered there is not known")


def _output_of(prefix: str, module: nn.Module, modules: Mapping[str, nn.Module]) -> Matrix | LeftOutError:
    """The projection behind the heads: a child, or as in BERT ``output.dense`` beside the module."""
    parent = prefix.rpartition(".")[0]
    places = [qualified(prefix, name) for name in _OUTPUT] + [qualified(parent, "output.dense")]
    for place in places:
        found = modules.get(place)
        if found is not None and not isinstance(found, nn.Sequential | nn.ModuleList):
            return _output(place, found)
    return LeftOutError(f"no output projection was found (looked for {', '.join(_OUTPUT)} and output.dense)")


def _output(place: str, module: nn.Module) -> Matrix | LeftOutError:
    try:
        return single_matrix(place, module)
    except LeftOutError as error:
        return error


def _heads(module: nn.Module, query: Matrix, key: Matrix, value: Matrix) -> tuple[int, int]:
    """How many heads queries have, and how many keys and values.

    Raises:
        LeftOutError: If the module does not tell, or tells what does not fit.
    """
    rows = [m.shape[0] for m in (query, key, value)]
    width = _integer(module, _HEAD_WIDTHS)
    if width is None:
        count = _integer(module, _HEAD_COUNTS)
        if count is None or rows[0] % count:
            raise LeftOutError(
                f"the number of heads is not known: it has none of {', '.join(_HEAD_WIDTHS + _HEAD_COUNTS)} that fits "
                f"{rows[0]} outputs of the query"
            )
        width = rows[0] // count
    heads, key_value_heads = rows[0] // width, max(rows[1] // width, 1)
    fits = rows[0] % width == 0 and rows[1] % width == 0 and heads % key_value_heads == 0
    if not fits or rows[2] % key_value_heads:
        raise LeftOutError(
            f"heads of width {width} do not fit query, key and value of {rows[0]}, {rows[1]} and {rows[2]} outputs"
        )
    return heads, key_value_heads


def _integer(module: nn.Module, names: tuple[str, ...]) -> int | None:
    """The first of these attributes of the module, or of its configuration, that is an integer."""
    for holder in (module, getattr(module, "config", None)):
        for name in names:
            found = getattr(holder, name, None)
            if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                return found
    return None


def _is_rotary(module: nn.Module) -> bool:
    """Whether positions turn queries and keys before they meet."""
    config = getattr(module, "config", None)
    said = any(getattr(config, name, None) is not None for name in ("rope_parameters", "rope_theta", "rope_scaling"))
    return said or any("rotary" in name.lower() for name, _ in module.named_children())
