"""Captions to token ids with character offsets, and character spans to token masks.

Ids are laid out as CLIP's: a row is `[start] tokens [end] 0 0 ...` and start and end are the two highest ids, so
`argmax(ids)` is the position of the end token and everything after it is padding. Padding is 0 for every tokenizer
(our choice, as in the original CLIP); since 0 may also be a word, tell padding by position and not by id.
"""

from collections.abc import Iterable, Sequence
import functools

from etils import epath
import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from harmopower.errors import UserError

PAD_ID = 0
FILE_NAME = "tokenizer.json"
_PAD, _START, _END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"
_ADDED = ("<|start of caption|>", "<|end of caption|>")  # for tokenizers that have no start and end of CLIP's kind
MIN_VOCAB_SIZE = 256 + 3  # the bytes; pad, start and end
_MIN_PHRASE_TOKENS = 2  # METHOD section 3


class TokenizerError(UserError, ValueError):
    """A tokenizer that cannot be loaded or trained; the text names the path and the key."""


class Tokenizer:
    """A fast tokenizer with CLIP's layout of special tokens; picklable, so that worker processes can have it.

    Attributes:
      vocab_size: number of ids, special tokens included.
      sot_id, eot_id: start and end of text, `vocab_size - 2` and `vocab_size - 1`.
      pad_id: 0.
    """

    pad_id = PAD_ID

    def __init__(self, backend: tokenizers.Tokenizer):
        """Wraps a backend; one whose two last ids are not special tokens gets a start and an end token added."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # a caption that spells out "<|endoftext|>" is text like any other
        size = backend.get_vocab_size()
        special = backend.get_added_tokens_decoder()
        if not all(index in special and special[index].special for index in (size - 2, size - 1)):
            backend.add_special_tokens(list(_ADDED))
        self._backend = backend
        self.vocab_size = backend.get_vocab_size()
        self.sot_id, self.eot_id = self.vocab_size - 2, self.vocab_size - 1

    def __reduce__(self):
        return _from_json, (self._backend.to_str(),)

    @classmethod
    def load(cls, spec: str, data_directory) -> "Tokenizer":
        """Loads the tokenizer that `config.data.tokenizer` names.

        Args:
          spec: empty for `tokenizer.json` beside the data; a path to a `tokenizer.json` or a folder with one; or
            `hf:NAME` for any Hugging Face tokenizer that has a fast form (needs the extra `hf`).
          data_directory: folder of the data set, for an empty `spec`.

        Raises:
          TokenizerError: there is none, or it cannot be read.
        """
        if spec.startswith("hf:"):
            return cls(_hugging_face(spec.removeprefix("hf:")))
        path = epath.Path(spec or data_directory)
        path = path / FILE_NAME if path.is_dir() else path
        if not path.is_file():
            hint = "set config.data.tokenizer to a tokenizer.json, a folder with one, or hf:NAME"
            prepare = "" if spec else "run `python -m tools.prepare`, which trains one beside the data, or "
            raise TokenizerError(f"no tokenizer at {path} (config.data.tokenizer is {spec!r}); {prepare}{hint}")
        try:
            return cls(tokenizers.Tokenizer.from_str(path.read_text()))
        except Exception as error:  # the library raises bare Exception for every kind of broken file
            raise TokenizerError(f"{path} (config.data.tokenizer) is not a tokenizer.json: {error}") from error

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int, path=None) -> "Tokenizer":
        """Trains a byte-level BPE on lower-cased captions and saves it to `path` (a file), if given.

        Every word is coded with its leading space, also the first one, so that a phrase has the same tokens wherever it
        stands. `vocab_size` counts the special tokens; few captions may fill less of it.

        Raises:
          TokenizerError: `vocab_size` cannot hold the 256 bytes and the three special tokens.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise TokenizerError(f"vocab_size {vocab_size} is below {MIN_VOCAB_SIZE}: 256 bytes, pad, start and end")
        backend = tokenizers.Tokenizer(models.BPE())
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            special_tokens=[_PAD],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        backend.train_from_iterator(captions, trainer)
        backend.add_special_tokens([_START, _END])
        tokenizer = cls(backend)
        if path is not None:
            tokenizer.save(path)
        return tokenizer

    def save(self, path) -> None:
        """Writes the tokenizer to a file that `load` and any Hugging Face fast tokenizer read."""
        self._backend.save(str(path))

    def encode(self, text: str, context_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Encodes one text.

        Args:
          text: any text; an empty one gives start and end only.
          context_length: `T`, at least 2; what does not fit is cut, the end token stays.

        Returns:
          `ids int32 [T]` and `offsets int32 [T, 2]`, the first and last-plus-one character of each token in `text`,
          without surrounding white space. Start and padding have (0, 0); the end token has (c, c), where c is the
          character from which on the text was cut (its length where nothing was), which `span_mask` needs.
        """
        ids, places = self._encode(text)
        kept = context_length - 2
        cut = places[kept][0] if len(places) > kept else len(text)
        row = np.full(context_length, PAD_ID, np.int32)
        offsets = np.zeros((context_length, 2), np.int32)
        length = min(len(ids), kept)
        row[0], row[1 : length + 1], row[length + 1] = self.sot_id, ids[:length], self.eot_id
        offsets[1 : length + 2] = places[:length] + [(cut, cut)]
        return row, offsets

    def encode_batch(self, texts: Sequence[str], context_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Encodes several texts: `ids int32 [B, T]` and `offsets int32 [B, T, 2]`, see `encode`."""
        rows = [self.encode(text, context_length) for text in texts]
        ids = np.array([ids for ids, _ in rows], np.int32).reshape(-1, context_length)
        return ids, np.array([offsets for _, offsets in rows], np.int32).reshape(-1, context_length, 2)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, [_trim(text, start, end) for start, end in encoding.offsets]


def _from_json(text: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text))


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Offsets without white space: many tokenizers count a leading space as part of the word."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


@functools.lru_cache(maxsize=1)
def _hugging_face(name: str) -> tokenizers.Tokenizer:
    try:
        import transformers  # optional and slow to import
    except ImportError as error:
        raise TokenizerError(
            f"config.data.tokenizer hf:{name} needs transformers; install the extra: pip install 'harmopower[hf]'"
        ) from error
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, use_fast=True)
    except (OSError, ValueError) as error:
        raise TokenizerError(f"config.data.tokenizer hf:{name} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise TokenizerError(f"config.data.tokenizer hf:{name} is {type(tokenizer).__name__}, which has no fast form")
    return tokenizer.backend_tokenizer


def span_mask(offsets: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Says which tokens lie in which character span.

    A token belongs to a span when one of its characters, white space aside, does. A span that the context length cut is
    dropped (METHOD section 3): its row is empty.

    Args:
      offsets: `[T, 2]` from `Tokenizer.encode`.
      spans: `K` pairs of first and last-plus-one character.

    Returns:
      `bool [K, T]`.
    """
    start, end = offsets[:, 0], offsets[:, 1]
    cut = np.max(start, initial=0, where=start == end)  # only the end token is empty behind character 0
    spans = np.asarray(spans, np.int32).reshape(-1, 2)
    first, last = spans[:, :1], spans[:, 1:]
    return (np.maximum(start, first) < np.minimum(end, last)) & (last <= cut)


def phrase_masks(
    offsets: np.ndarray, phrases: Sequence[tuple[int, int]], linked: Sequence[tuple[int, int]], max_phrases: int
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the phrases of a caption (METHOD section 3) and says where the spans of its regions went.

    Order: the root (the longest phrase), then the spans that regions link to, then the other phrases, longest first;
    equal token sets count once. A phrase needs 2 tokens; a linked span needs 1, because it travels as a lexeme of the
    region objective, and it goes before longer phrases, because without it the region has no pair (our choice; the
    powerset objective ignores phrases of one token). With no phrase left (no tree, or all of them cut) the whole
    caption, as far as it was kept, is the one phrase.

    Args:
      offsets: `[T, 2]` from `Tokenizer.encode`.
      phrases: character spans of the caption's constituents.
      linked: character spans that regions name.
      max_phrases: `K`.

    Returns:
      `masks bool [K, T]`, padded with empty rows, and `rows int32 [len(linked)]`, the row of each linked span, -1 where
      it was cut, has no token, or found no place.
    """
    masks = span_mask(offsets, [*linked, *phrases])
    own, tree = masks[: len(linked)], masks[len(linked) :]
    sizes = tree.sum(axis=1)
    # A stable sort, so that the order of the tree decides between equally long phrases.
    order = [index for index in np.argsort(-sizes, kind="stable") if sizes[index] >= _MIN_PHRASE_TOKENS]
    whole = (offsets[:, 0] < offsets[:, 1])[None]
    wanted = np.concatenate([tree[order[:1]] if order else whole, own, tree[order[1:]]])
    # Keyed by their bytes, the masks are unique and stay in order.
    chosen = {mask.tobytes(): mask for mask in wanted[wanted.any(axis=1)]}
    places = {key: row for row, key in enumerate(chosen) if row < max_phrases}
    result = np.zeros((max_phrases, len(offsets)), bool)
    for mask, row in zip(chosen.values(), places.values(), strict=False):
        result[row] = mask
    return result, np.array([places.get(mask.tobytes(), -1) for mask in own], np.int32)
