"""The rows of a batch as cards: what training sees, after crop, tokenisation and drawing of regions."""

import collections
from collections.abc import Iterator

import numpy as np

from harmopower.data import pipeline
from harmopower.data.inspecting import cards
from harmopower.data.tokenize import Tokenizer


def of_batch(batch: pipeline.Batch, ids: list[str], tokenizer: Tokenizer) -> Iterator[cards.Card]:
    """A card a row.

    Args:
      batch: see `pipeline`; of one host, so that all its rows are there.
      ids: of the records of its rows.
      tokenizer: that made it.
    """
    groups = collections.Counter(batch["box_group"][batch["box_valid"]].tolist())
    for row, name in enumerate(ids):
        yield _card({key: values[row] for key, values in batch.items()}, f"row {row}: {name}", tokenizer, groups)


def _card(row: dict, name: str, tokenizer: Tokenizer, groups: collections.Counter[int]) -> cards.Card:
    bad = row["weight"] == 0
    if bad:
        problem = "this record cannot be used; its row has weight 0 (tools.prepare check says why)"
        return cards.Card(name, None, [], [], [problem], {"bad"})
    colours = cards.Colours()
    boxes = [_box(row, index, tokenizer, colours, groups) for index in np.flatnonzero(row["box_valid"]).tolist()]
    note = "the caption goes on, but is cut here" if row["cut"] else ""
    kinds = {"cut": bool(row["cut"]), "no span": not all(box.named for box in boxes)}
    texts = [_text(row, tokenizer, colours, note)]
    return cards.Card(name, row["image"], boxes, texts, [], {kind for kind, is_so in kinds.items() if is_so})


def _box(row: dict, index: int, tokenizer: Tokenizer, colours: cards.Colours, groups) -> cards.Box:
    phrase, group = int(row["box_phrase"][index]), int(row["box_group"][index])
    words = _joined(row["tokens"][row["phrases"][phrase]], tokenizer) if phrase >= 0 else ""
    own = _own_text(row, index, tokenizer)
    parts = [f"phrase {phrase}: {words}" if words else "", f"text alone: {own}" if own else ""]
    if group and not (words or own):
        parts.append("its text is in no mask of this batch")
    if group and groups[group] > 1:
        parts.append(f"(the same text {groups[group]} times in the batch)")
    key = _key(phrase) if phrase >= 0 else f"region {index}"
    name = " ".join(filter(None, parts)) or "no text"
    return cards.make_box(row["boxes"][index], name, key, colours(key), phrase >= 0)


def _own_text(row: dict, index: int, tokenizer: Tokenizer) -> str:
    tokens = row.get("box_tokens", np.zeros((0, 0), np.int32))
    if index >= len(tokens) or not tokens[index].any():
        return ""
    return _joined(tokens[index, : _length(tokens[index])], tokenizer)


def _key(phrase: int) -> str:
    return f"{phrase:x}"


def _length(tokens: np.ndarray) -> int:
    """Start and end included: the end has the highest id, everything behind it is padding."""
    return int(np.argmax(tokens)) + 1


def _joined(tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    return "|".join(piece.strip() for piece in tokenizer.pieces(tokens))


def _text(row: dict, tokenizer: Tokenizer, colours: cards.Colours, note: str) -> cards.Text:
    length = _length(row["tokens"])
    masks = row["phrases"][:, :length]
    used = np.flatnonzero(masks.any(axis=1)).tolist()
    pieces = []
    for place, text in enumerate(tokenizer.pieces(row["tokens"][:length])):
        inside = [phrase for phrase in used if masks[phrase, place]]
        keys = tuple(_key(phrase) for phrase in sorted(inside, key=lambda phrase: masks[phrase].sum()))
        pieces.append(cards.Piece(text.strip() or "␣", keys, colours.known(keys)))
    rows = [_runs(masks[phrase], int(phrase), colours) for phrase in used]
    return cards.Text(pieces, rows, ", ".join(filter(None, [f"{length} tokens, {len(used)} phrases", note])))


def _runs(mask: np.ndarray, phrase: int, colours: cards.Colours) -> list[cards.Cell]:
    """The mask of a phrase as cells; it may have gaps."""
    key = _key(phrase)
    borders = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0))
    cells, done = [], 0
    for start, end in borders.reshape(-1, 2).tolist():
        if start > done:
            cells.append(cards.Cell(start - done))
        cells.append(cards.Cell(end - start, str(phrase), key, colours.known([key])))
        done = end
    return cells
