"""CLIP's own tokenizer, 49,408 tokens, built without a network from the file of merges that OpenAI published.

It gives the ids of `open_clip.tokenizer.SimpleTokenizer` for cleaned text (`harmopower.data.clean`), but for a caption
that spells out a special token, which here is text like any other, and for code points that Unicode has not assigned.
"""

import gzip
import importlib.util
from pathlib import Path
import zlib

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

FILE_NAME = "bpe_simple_vocab_16e6.txt.gz"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
VOCABULARY = 49_408
_MERGES = VOCABULARY - 2 * 256 - len(SPECIAL)  # the file has more; CLIP uses the first ones
_END_OF_WORD = "</w>"
# The words of openai/CLIP's simple_tokenizer.py: English contractions, letters, single digits, everything else.
_WORDS = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def find() -> Path | None:
    """The file that an installed open_clip_torch carries, None where it is not installed. Imports nothing of it."""
    package = importlib.util.find_spec("open_clip")
    folders = package.submodule_search_locations if package else None
    found = [path for folder in folders or () if (path := Path(folder) / FILE_NAME).is_file()]
    return found[0] if found else None


def build(path) -> tokenizers.Tokenizer:
    """The tokenizer whose merges `path` holds.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not CLIP's file of merges.
    """
    merges = _read_merges(path)
    alphabet = _alphabet()
    words = [*alphabet, *(letter + _END_OF_WORD for letter in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=_END_OF_WORD))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.add_special_tokens(list(SPECIAL))
    if backend.get_vocab_size() != VOCABULARY:
        raise ValueError(f"its merges give {backend.get_vocab_size()} tokens instead of {VOCABULARY}")
    return backend


def _read_merges(path) -> list[tuple[str, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : _MERGES + 1]  # the first line is a version
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"it is not a gzip file of merges: {error}") from error
    words = [line.split() for line in lines]
    merges = [(pair[0], pair[1]) for pair in words if len(pair) == 2]
    if len(merges) < _MERGES or len(merges) != len(words):
        raise ValueError(f"it does not begin with {_MERGES} lines of two tokens each")
    return merges


def _alphabet() -> list[str]:
    """The 256 characters that stand for bytes, in the order of their ids: printable Latin-1 first, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
