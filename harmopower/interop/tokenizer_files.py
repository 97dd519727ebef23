"""A tokenizer folder that Hugging Face's and OpenCLIP's tokenizers load, giving the same ids as harmopower's."""

import json
from pathlib import Path

import tokenizers
from tokenizers import processors

from harmopower.data.tokenize import FILE_NAME, PAD_ID, Tokenizer


def special_names(tokenizer: Tokenizer) -> dict[str, str]:
    """The texts of the start, end and padding tokens."""
    ids = {"bos_token": tokenizer.sot_id, "eos_token": tokenizer.eot_id, "pad_token": pad_id(tokenizer)}
    backend = _backend(tokenizer)
    return {name: backend.id_to_token(token) or "" for name, token in ids.items()}


def pad_id(tokenizer: Tokenizer) -> int:
    """The id that the exported tokenizer pads with: 0 where 0 is a special token.

    In a vocabulary where 0 is a word (OpenAI's) the end token pads, as in Hugging Face's CLIP tokenizers: the result is
    the same, because nothing looks behind the first end token.
    """
    special = _backend(tokenizer).get_added_tokens_decoder()
    return PAD_ID if PAD_ID in special and special[PAD_ID].special else tokenizer.eot_id


def write(folder: Path, tokenizer: Tokenizer, context_length: int) -> None:
    """Writes `tokenizer.json` and its configs; unlike ours, the file itself adds the start and end tokens."""
    backend, names = _backend(tokenizer), special_names(tokenizer)
    start, end = names["bos_token"], names["eos_token"]
    adds = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B {end}",
        special_tokens=[(start, tokenizer.sot_id), (end, tokenizer.eot_id)],
    )
    # A CLIP tokenizer's own post-processor adds its tokens too; byte-level offsets are all that is worth keeping.
    keeps = isinstance(backend.post_processor, processors.ByteLevel)
    backend.post_processor = processors.Sequence([backend.post_processor, adds]) if keeps else adds
    backend.encode_special_tokens = False
    backend.save(str(folder / FILE_NAME))
    settings = names | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "padding_side": "right",
        "truncation_side": "right",
        "split_special_tokens": True,  # a caption that spells out a special token is text like any other
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")


def _backend(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    # Through a pickle's pieces, so that changing the copy leaves the tokenizer as it is.
    return tokenizers.Tokenizer.from_str(tokenizer.__reduce__()[1][0])
