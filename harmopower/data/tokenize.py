"""Captions to token ids with character offsets, and character spans to token masks.

Ids are laid out as CLIP's: a row is `[start] tokens [end] 0 0 ...` and start and end are the two highest ids, so
`argmax(ids)` is the position of the end token and everything after it is padding. Padding is 0 for every tokenizer
(our choice, as in the original CLIP); since 0 may also be a word, tell padding by position and not by id.

Text is cleaned first, as OpenCLIP cleans it (`harmopower.data.clean`); offsets are those of the text as it was written.
"""

from collections.abc import Iterable, Sequence
import functools
import hashlib

from etils import epath
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from harmopower.data import clean as cleaning
from harmopower.data import clip_vocabulary
from harmopower.errors import UserError

PAD_ID = 0
FILE_NAME = "tokenizer.json"
_PAD = "<|pad|>"
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

    def __init__(self, backend: tokenizers.Tokenizer, clean_text: bool = True):
        """Wraps a backend; one whose two last ids are not special tokens gets a start and an end token added.

        Args:
          backend: of the library `tokenizers`.
          clean_text: whether texts are cleaned before they are encoded, see `harmopower.data.clean`.
        """
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # a caption that spells out "<|endoftext|>" is text like any other
        size = backend.get_vocab_size()
        special = backend.get_added_tokens_decoder()
        if not all(index in special and special[index].special for index in (size - 2, size - 1)):
            backend.add_special_tokens(list(_ADDED))
        self._backend, self._clean_text = backend, clean_text
        # Lower-casing is the tokenizer's affair; where it does, it is done as OpenCLIP does, final sigma included.
        self._lower = backend.normalizer is not None and backend.normalizer.normalize_str("A") == "a"
        self.vocab_size = backend.get_vocab_size()
        self.sot_id, self.eot_id = self.vocab_size - 2, self.vocab_size - 1

    def __reduce__(self):
        return _from_json, (self._backend.to_str(), self._clean_text)

    @property
    def digest(self) -> str:
        """Equal for equal tokenizers, wherever their files lie."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()[:16]

    @classmethod
    def load(cls, spec: str, data_directory, clean_text: bool = True) -> "Tokenizer":
        """Loads the tokenizer that `config.data.tokenizer` names.

        Args:
          spec: empty for `tokenizer.json` beside the data; a path to a `tokenizer.json` or a folder with one;
            `clip` for CLIP's own from an installed open_clip_torch, or `clip:PATH` from OpenAI's file of merges; or
            `hf:NAME` for any Hugging Face tokenizer that has a fast form.
          data_directory: folder of the data set, for an empty `spec`.
          clean_text: `config.data.clean_text`.

        Raises:
          TokenizerError: there is none, or it cannot be read.
        """
        if spec.startswith("hf:"):
            return cls(_hugging_face(spec.removeprefix("hf:")), clean_text)
        if spec == "clip" or spec.startswith("clip:"):
            return cls(_clip(spec.removeprefix("clip").removeprefix(":")), clean_text)
        path = epath.Path(spec or data_directory)
        path = path / FILE_NAME if path.is_dir() else path
        if not path.is_file():
            hint = "set config.data.tokenizer to a tokenizer.json, a folder with one, clip or hf:NAME"
            prepare = "" if spec else "run `python -m tools.prepare`, which trains one beside the data, or "
            raise TokenizerError(f"no tokenizer at {path} (config.data.tokenizer is {spec!r}); {prepare}{hint}")
        try:
            return cls(tokenizers.Tokenizer.from_str(path.read_text()), clean_text)
        except Exception as error:  # the library raises bare Exception for every kind of broken file
            raise TokenizerError(f"{path} (config.data.tokenizer) is not a tokenizer.json: {error}") from error

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int, path=None) -> "Tokenizer":
        """Trains a byte-level BPE on cleaned, lower-cased captions and saves it to `path` (a file), if given.

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
        backend.train_from_iterator(map(cleaning.clean, captions), trainer)
        backend.add_special_tokens(list(clip_vocabulary.SPECIAL))
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

    def count(self, text: str) -> int:
        """How many tokens a text has, with start and end, however many fit."""
        return len(self._encode(text)[0]) + 2

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each token, for people; special tokens by their names."""
        decoder = self._backend.decoder or decoders.ByteLevel()
        return [decoder.decode([self._backend.id_to_token(int(token)) or ""]) for token in ids]

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        cleaned, places = cleaning.align(text, self._lower) if self._clean_text else (text, None)
        encoding = self._backend.encode(cleaned, add_special_tokens=False)
        offsets = [_trim(cleaned, start, end) for start, end in encoding.offsets]
        if places is not None:
            places.append((len(text), len(text)))  # where a token without characters at the end stands
            offsets = [_written(places, start, end) for start, end in offsets]
        return encoding.ids, offsets


def _from_json(text: str, clean_text: bool) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), clean_text)


def _written(places: list[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Where characters `start` to `end` of a cleaned text stood in the written one; empty stays empty."""
    first = places[start][0]
    return first, places[end - 1][1] if start < end else first


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Offsets without white space: many tokenizers count a leading space as part of the word."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _clip(path: str) -> tokenizers.Tokenizer:
    found = path or clip_vocabulary.find()
    if not found:
        raise TokenizerError(
            f"config.data.tokenizer clip needs {clip_vocabulary.FILE_NAME}, which the package open_clip_torch carries: "
            "pip install --no-deps open_clip_torch (the file alone is read), or name the file by "
            "config.data.tokenizer=clip:PATH"
        )
    try:
        return clip_vocabulary.build(found)
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{found} (config.data.tokenizer clip) cannot be used: {error}") from error


@functools.lru_cache(maxsize=1)
def _hugging_face(name: str) -> tokenizers.Tokenizer:
    import transformers  # slow to import, and needed by few runs

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
    pairs = np.asarray(spans, np.int32).reshape(-1, 2)
    first, last = pairs[:, :1], pairs[:, 1:]
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
