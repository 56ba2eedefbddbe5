"""all-MiniLM-L6-v2 as it comes from its makers (safetensors, vocab.txt) -> GGUF for llama.cpp.

Matrices in half precision, what is added or normalised in single.  The two tables that are added to
the words' are small and stay single too, as in llama.cpp's own converter.
Source: llama.cpp, convert_hf_to_gguf.py, class BertModel.
"""

# ruff: noqa: PLC0415 - the gguf package is there while set-up prepares the model, and not needed later

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_HEAD_BYTES = 1024**2  # of the safetensors file; this one's has 12 kB
N_LAYERS, N_HEADS, N_DIMS, N_INNER, N_POSITIONS, N_VOCAB = 6, 12, 384, 1536, 512, 30522
LAYER_NORM_EPS = 1e-12
_LEFT_OUT = ("embeddings.position_ids", "pooler.")  # counting, and what sentence vectors don't use
_PAD, _UNKNOWN, _CLS, _SEP, _MASK = 0, 100, 101, 102, 103
_SPACE = "\u2581"  # before a token that begins a word
_NORMAL, _UNKNOWN_TYPE, _CONTROL, _UNUSED = 1, 2, 3, 5  # enum llama_token_type


def convert(source: Path, target: Path) -> None:
    """Write the model in source (model.safetensors, with vocab.txt beside it) as a GGUF file.

    ValueError: it isn't that model.
    """
    import gguf

    writer: Any = gguf.GGUFWriter(target, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_block_count(N_LAYERS)
    writer.add_context_length(N_POSITIONS)
    writer.add_embedding_length(N_DIMS)
    writer.add_feed_forward_length(N_INNER)
    writer.add_head_count(N_HEADS)
    writer.add_layer_norm_eps(LAYER_NORM_EPS)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer, source.with_name("vocab.txt"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, N_LAYERS)
    for name, tensor in _tensors(source):
        if name.startswith(_LEFT_OUT):
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ValueError(f"{source} has a tensor {name!r} that this model hasn't")
        is_half = tensor.ndim == 2 and not known.startswith(("position_embd", "token_types"))
        writer.add_tensor(known, tensor.astype(np.float16) if is_half else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, path: Path) -> None:
    """Word pieces: "##ing" goes on with a word, all others begin one."""
    tokens = path.read_text(encoding="utf-8").splitlines()
    if len(tokens) != N_VOCAB:
        raise ValueError(f"{path} has {len(tokens)} tokens, expected {N_VOCAB}")
    texts, types = [], []
    for number, token in enumerate(tokens):
        is_special = token.startswith("[") and token.endswith("]") and len(token) > 2
        if number == _UNKNOWN:
            types.append(_UNKNOWN_TYPE)
        elif number in (_PAD, _CLS, _SEP, _MASK):
            types.append(_CONTROL)
        else:
            types.append(_UNUSED if is_special else _NORMAL)
        if is_special:
            texts.append(token)
        else:
            texts.append(token[2:] if token.startswith("##") else _SPACE + token)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")  # plain lower-casing word pieces
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_type_count(2)
    writer.add_bos_token_id(_CLS)
    writer.add_unk_token_id(_UNKNOWN)
    writer.add_sep_token_id(_SEP)
    writer.add_pad_token_id(_PAD)
    writer.add_mask_token_id(_MASK)


def _tensors(path: Path) -> list[tuple[str, NDArray[Any]]]:
    """All tensors of a safetensors file: a length, a JSON head, then the numbers.  Every place in
    the head is checked against the file."""
    data = np.memmap(path, np.uint8, "r")
    (n_head,) = struct.unpack("<Q", data[:8].tobytes())
    if n_head > min(MAX_HEAD_BYTES, len(data) - 8):
        raise ValueError(f"{path} has a head of {n_head} bytes, limit is {MAX_HEAD_BYTES}")
    head = json.loads(data[8 : 8 + n_head].tobytes())
    body = data[8 + n_head :]
    found = []
    for name, entry in head.items():
        if name == "__metadata__" or name.startswith(_LEFT_OUT):
            continue
        begin, end = entry["data_offsets"]
        if entry["dtype"] != "F32" or not 0 <= begin <= end <= len(body):
            raise ValueError(f"{path}: tensor {name!r} is not where or what it should be")
        found.append((name, body[begin:end].view("<f4").reshape(entry["shape"])))
    return found
