"""Captions of scenes: what a caption states, its constituency tree, and statements that are nearly the same but false.

A caption is a `Statement` (what is said of which thing) together with the wording. `tree` turns it into a tree, and
text, Penn bracket and spans are all read off that one tree, so they cannot disagree. Hard negatives are edited
statements with the wording kept, never edited strings.
"""

from collections.abc import Iterator
import dataclasses
import functools
import itertools

import numpy as np

from harmopower.data.scenes.world import (
    COLOURS,
    DIRECTIONS,
    FILLINGS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    can_hold,
)

SIDES = {"left": "on the left", "right": "on the right", "above": "above", "below": "below"}
PATTERNS = ("bare", "there", "picture", "shows")
CLAUSE_PATTERNS = ("clause", "fronted")  # only where a relation is stated
PATTERN_WEIGHTS = {
    "bare": 0.2,
    "there": 0.2,
    "picture": 0.15,
    "shows": 0.1,
    "clause": 0.3,
    "fronted": 0.05,
    "sides": 0.4,
}
MEDIA = ("picture", "photo", "painting", "drawing")  # none that starts with a vowel: "a picture of"
VERBS = ("is", "is", "sits", "lies")
RELATION_WORDS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
    "inside": ("inside", "inside", "within"),
}
TAGS = {"left": "NN", "right": "NN", "to": "TO", "the": "DT", "of": "IN", "on": "IN"}
FILLING_NOUNS = {"striped": "stripes", "dotted": "dots"}
KINDS = ("swap_attribute", "swap_object", "replace_attribute", "replace_object", "replace_relation")


@dataclasses.dataclass(frozen=True)
class Node:
    """A constituent: `children` are nodes, or one word. `entity` marks the noun phrase that names that thing."""

    label: str
    children: tuple["Node", ...] | str
    entity: int | None = None


@dataclasses.dataclass(frozen=True)
class Description:
    """What is said of one thing; None is left unsaid. `style` is "adjectives", "clause" or "with"."""

    shape: str
    colour: str | None = None
    filling: str | None = None
    size: str | None = None
    style: str = "adjectives"

    def fits(self, thing: Thing) -> bool:
        said = (self.shape, self.colour, self.filling, self.size)
        seen = (thing.shape, thing.colour, thing.filling, thing.size)
        return all(word is None or word == fact for word, fact in zip(said, seen))


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a caption says (descriptions, relations `(i, name, j)` between them) and in which words."""

    descriptions: tuple[Description, ...]
    relations: tuple[tuple[int, str, int], ...]
    pattern: str
    medium: str = "picture"
    verb: str = "is"
    word: int = 0  # which wording of a relation

    def may_be_true_of(self, scene: Scene) -> bool:
        """Whether some choice of distinct things fits the descriptions, relations read generously."""
        if len(self.descriptions) > len(scene.things):
            return False
        choices = itertools.permutations(range(len(scene.things)), len(self.descriptions))
        return any(self._fits(scene, chosen) for chosen in choices)

    def _fits(self, scene, chosen):
        described = all(d.fits(scene.things[i]) for d, i in zip(self.descriptions, chosen))
        return described and all(scene.may_hold(chosen[i], name, chosen[j]) for i, name, j in self.relations)


# ---- Saying what is seen ----


def describe(scene: Scene, rng: np.random.Generator) -> tuple[Statement, tuple[int, ...]]:
    """Draws a true statement that names every thing of the scene once.

    Returns:
      the statement, and for each of its descriptions the index of the thing that it names.
    """
    relations = tuple(_said_from_either_side(relation, rng) for relation in scene.relations)
    order = _order_of_mention(len(scene.things), relations, rng)
    place = {thing: position for position, thing in enumerate(order)}
    descriptions = tuple(_description(scene.things[i], scene, rng) for i in order)
    relations = tuple((place[i], name, place[j]) for i, name, j in relations)
    patterns = PATTERNS + (CLAUSE_PATTERNS if relations else ()) + (("sides",) if _has_sides(scene) else ())
    weights = np.array([PATTERN_WEIGHTS[pattern] for pattern in patterns])
    pattern = str(rng.choice(patterns, p=weights / weights.sum()))
    statement = Statement(
        descriptions, relations, pattern, str(rng.choice(MEDIA)), str(rng.choice(VERBS)), int(rng.integers(3))
    )
    return statement, tuple(order)


def _has_sides(scene):
    """Whether the scene can be told as "x on the left and y on the right"."""
    return len(scene.things) == 2 and any(name in OPPOSITE for _, name, _ in scene.relations)


def _said_from_either_side(relation, rng):
    i, name, j = relation
    return (j, OPPOSITE[name], i) if name in OPPOSITE and rng.random() < 0.5 else relation


def _order_of_mention(count, relations, rng):
    related = [i for relation in relations for i in (relation[0], relation[2])]
    return related + [int(i) for i in rng.permutation(count) if i not in related]


def _description(thing, scene, rng):
    """Colour nearly always, filling and size sometimes; never so little that two things are meant."""
    alone = sum(other.shape == thing.shape for other in scene.things) == 1
    colour = None if alone and rng.random() < 0.05 else thing.colour
    filling = thing.filling if rng.random() < (0.1 if thing.filling == "plain" else 0.4) else None
    size = thing.size if rng.random() < 0.2 else None
    style = str(rng.choice(("adjectives", "clause", "with"), p=(0.7, 0.05, 0.25)))
    return Description(thing.shape, colour, filling, size, style)


# ---- From a statement to a tree ----


def tree(statement: Statement) -> Node:
    """The constituency tree of a statement in its wording."""
    units, said = [], {i for relation in statement.relations for i in (relation[0], relation[2])}
    units += list(statement.relations) + [i for i in range(len(statement.descriptions)) if i not in said]
    if statement.pattern in CLAUSE_PATTERNS:
        return _coordinate("S", [_clause(unit, statement) for unit in units])
    body = _coordinate("NP", [_unit_phrase(unit, statement) for unit in units], commas=bool(statement.relations))
    if statement.pattern in ("bare", "sides"):
        return body
    if statement.pattern == "there":
        return _there(body, plural=len(units) > 1)
    if statement.pattern == "picture":
        return Node("NP", (_words("NP", f"DT:a NN:{statement.medium}"), _around("PP", "IN:of", body)))
    return Node("S", (_words("NP", f"DT:the NN:{statement.medium}"), _around("VP", "VBZ:shows", body)))


def _clause(unit, statement):
    if isinstance(unit, int):
        return _there(_noun_phrase(statement, unit), plural=False)
    i, name, j = unit
    subject, place = _noun_phrase(statement, i), _relation_phrase(name, statement.word, _noun_phrase(statement, j))
    verb = Node("VBZ", statement.verb)
    if statement.pattern == "fronted":
        return Node("SINV", (place, Node("VP", (verb,)), subject))
    return Node("S", (subject, Node("VP", (verb, place))))


def _unit_phrase(unit, statement):
    if isinstance(unit, int):
        return _noun_phrase(statement, unit)
    i, name, j = unit
    if statement.pattern == "sides":
        sides = [_on_its_side(statement, i, name), _on_its_side(statement, j, OPPOSITE[name])]
        return _coordinate("NP", sides, commas=False)
    place = _relation_phrase(name, statement.word, _noun_phrase(statement, j))
    return Node("NP", (_noun_phrase(statement, i), place))


def _on_its_side(statement, i, name):
    """The place belongs to the phrase that names the thing: a region is told what it shows and where it lies."""
    words = SIDES[name].split()
    side = Node("ADVP", (Node("RB", words[0]),))
    if len(words) > 1:
        side = Node("PP", (Node("IN", words[0]), _words("NP", f"DT:the NN:{words[2]}")))
    return Node("NP", (dataclasses.replace(_noun_phrase(statement, i), entity=None), side), i)


def _relation_phrase(name, word, landmark):
    """ "above X" is one PP; "to the left of X" is a PP whose NP holds another: to [[the left] [of X]]."""
    words = RELATION_WORDS[name][word].split()
    if len(words) == 1:
        return _around("PP", f"IN:{words[0]}", landmark)
    of = _around("PP", "IN:of", landmark)
    if len(words) == 2:
        return Node("PP", (Node("IN", words[0]), of))
    side = Node("NP", (_words("NP", f"DT:the NN:{words[2]}"), of))
    return Node("PP", (Node(TAGS[words[0]], words[0]), side))


def _noun_phrase(statement, i):
    d = statement.descriptions[i]
    style = _possible_style(d)
    adjectives = [d.size, None if style == "with" else d.filling, None if style == "clause" else d.colour]
    said = [f"JJ:{word}" for word in adjectives if word] + [f"NN:{word}" for word in d.shape.split()]
    core = _words("NP", " ".join([f"DT:{_article(said[0].partition(':')[2])}", *said]))
    if style == "adjectives":
        return dataclasses.replace(core, entity=i)
    if style == "with":
        return Node("NP", (core, _around("PP", "IN:with", _words("NP", f"NNS:{FILLING_NOUNS[d.filling]}"))), i)
    predicate = Node("S", (_around("VP", "VBZ:is", _words("ADJP", f"JJ:{d.colour}")),))
    return Node("NP", (core, Node("SBAR", (_words("WHNP", "WDT:that"), predicate))), i)


def _article(word):
    return "an" if word[0] in "aeio" or word.startswith("um") else "a"  # "a unicorn", "an umbrella"


def _possible_style(description):
    if description.style == "clause" and description.colour:
        return "clause"
    if description.style == "with" and description.filling in FILLING_NOUNS:
        return "with"
    return "adjectives"


def _there(body, plural):
    verb = "VBP:are" if plural else "VBZ:is"
    return Node("S", (_words("NP", "EX:there"), _around("VP", verb, body)))


def _coordinate(label, nodes, commas=True):
    """One node as it is; "x and y"; "x, y and z". Two that hold relations get a comma, so that they are kept apart."""
    if len(nodes) == 1:
        return nodes[0]
    children = [nodes[0]]
    for node in nodes[1:-1]:
        children += [Node(",", ","), node]
    if len(nodes) == 2 and commas:
        children.append(Node(",", ","))
    return Node(label, (*children, Node("CC", "and"), nodes[-1]))


def _words(label, tagged):
    return Node(label, tuple(Node(*word.split(":")) for word in tagged.split()))


def _around(label, tagged, node):
    return Node(label, (Node(*tagged.split(":")), node))


# ---- Reading a tree ----


def penn(node: Node) -> str:
    """The Penn bracket of a tree."""
    inner = node.children if isinstance(node.children, str) else " ".join(map(penn, node.children))
    return f"({node.label} {inner})"


def words(node: Node) -> list[str]:
    """The leaves of a tree."""
    return [node.children] if isinstance(node.children, str) else [w for child in node.children for w in words(child)]


def text(node: Node) -> str:
    """The caption of a tree: words with single spaces, none before a comma."""
    return " ".join(words(node)).replace(" ,", ",")


def entity_spans(node: Node) -> dict[int, tuple[int, int]]:
    """For each named thing the characters `[start, end)` of its noun phrase in `text(node)`."""
    spans = {}
    _collect_spans(node, 0, spans)
    return spans


def _collect_spans(node, start, spans):
    """Walks the leaves from character `start`; returns where the node ends."""
    if isinstance(node.children, str):
        return start + len(node.children)
    end = start
    for number, child in enumerate(node.children):
        end = _collect_spans(child, end + (number > 0 and child.label != ","), spans)
    if node.entity is not None:
        spans[node.entity] = (start, end)
    return end


# ---- Nearly the same, but false ----


def negatives(
    statement: Statement, scene: Scene, pairs, rng: np.random.Generator, shapes=SHAPES
) -> list[tuple[str, str]]:
    """One false caption of each kind that the scene allows.

    Every negative keeps the wording, differs from the caption, and is false of the scene even when relations are read
    generously. It says only what some scene of `pairs` could show, so that no unusual combination of words betrays it.
    A replaced object is one of `shapes`.

    Returns:
      `(kind, caption)` in the order of `KINDS`.
    """
    objects = functools.partial(_replaced_objects, shapes=shapes)
    makers = (_swapped_attributes, _swapped_objects, _replaced_attributes, objects, _replaced_relations)
    caption, found = text(tree(statement)), []
    for kind, maker in zip(KINDS, makers):
        candidates = [candidate for candidate in maker(statement) if _is_possible(candidate, pairs)]
        for number in _order_of_trial(kind, candidates, rng):
            changed = text(tree(candidates[number]))
            if changed != caption and not candidates[number].may_be_true_of(scene):
                found.append((kind, changed))
                break
    return found


def _order_of_trial(kind, candidates, rng):
    """Random; but a replaced relation is mostly the opposite, which is the first candidate of each relation."""
    order = [int(i) for i in rng.permutation(len(candidates))]
    if kind == "replace_relation" and rng.random() < 0.7:
        return [0] + order if candidates else []
    return order


def _is_possible(statement, pairs):
    said = [(d.colour, d.shape) for d in statement.descriptions]
    if len(set(said)) < len(said) or any(colour and (colour, shape) not in pairs for colour, shape in said):
        return False
    return all(
        name != "inside" or _can_hold(statement.descriptions[j], statement.descriptions[i])
        for i, name, j in statement.relations
    )


def _can_hold(outer, inner):
    # What holds is drawn large and what is held small, whatever size they had.
    return can_hold(outer, inner) and outer.size != "small" and inner.size != "large"


def _with_descriptions(statement, changes):
    descriptions = list(statement.descriptions)
    for i, change in changes.items():
        descriptions[i] = dataclasses.replace(descriptions[i], **change)
    return dataclasses.replace(statement, descriptions=tuple(descriptions))


def _swapped_attributes(statement) -> Iterator[Statement]:
    for i, j in itertools.combinations(range(len(statement.descriptions)), 2):
        for name in ("colour", "filling"):
            a, b = (getattr(statement.descriptions[k], name) for k in (i, j))
            if a and b and a != b:  # both said: the negative has the very words of the caption
                yield _with_descriptions(statement, {i: {name: b}, j: {name: a}})


def _swapped_objects(statement) -> Iterator[Statement]:
    for _number, (i, _name, j) in enumerate(statement.relations):
        descriptions = list(statement.descriptions)
        descriptions[i], descriptions[j] = descriptions[j], descriptions[i]
        yield dataclasses.replace(statement, descriptions=tuple(descriptions))


def _replaced_attributes(statement) -> Iterator[Statement]:
    for i, description in enumerate(statement.descriptions):
        for name, values in (("colour", COLOURS), ("filling", FILLINGS), ("size", SIZES)):
            for value in values if getattr(description, name) else ():
                yield _with_descriptions(statement, {i: {name: value}})


def _replaced_objects(statement, shapes=SHAPES) -> Iterator[Statement]:
    for i in range(len(statement.descriptions)):
        for shape in shapes:
            yield _with_descriptions(statement, {i: {"shape": shape}})


def _replaced_relations(statement) -> Iterator[Statement]:
    for number, (i, name, j) in enumerate(statement.relations):
        first = [OPPOSITE[name]] if name in OPPOSITE else []
        rest = DIRECTIONS if statement.pattern == "sides" else RELATIONS  # nothing is inside on a side
        for other in first + [relation for relation in rest if relation != name and relation not in first]:
            relations = list(statement.relations)
            relations[number] = (i, other, j)
            yield dataclasses.replace(statement, relations=tuple(relations))
