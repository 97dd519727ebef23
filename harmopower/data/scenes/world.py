"""What a rendered scene holds: things with attributes, where they lie, and which relations are true of them.

Lengths are shares of the image side. Everything here is our choice (METHOD.md names no data): a small world in which
colour, shape, filling, size and relation each have to be told apart, and bound to the right thing.
"""

import dataclasses
import itertools

import numpy as np

COLOURS = ("red", "yellow", "green", "cyan", "blue", "pink", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "bar", "cross", "ring", "moon")
FILLINGS = ("plain", "striped", "dotted")
FILLING_SHARES = (0.6, 0.2, 0.2)
SIZES = ("small", "large")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}  # (x, y), y downwards
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
RELATIONS = (*DIRECTIONS, "inside")

ALL_PAIRS = tuple(itertools.product(COLOURS, SHAPES))
# A permutation: every colour and every shape is still seen in training, each missing exactly one partner.
UNSEEN_PAIRS = tuple((colour, SHAPES[(3 * i + 1) % len(SHAPES)]) for i, colour in enumerate(COLOURS))
SEEN_PAIRS = tuple(pair for pair in ALL_PAIRS if pair not in UNSEEN_PAIRS)

RADIUS = {"small": (0.145, 0.165), "large": (0.230, 0.260)}  # 19-21 and 29-33 px across at 64 px
INNER_RADIUS = (0.115, 0.130)
OUTER_RADIUS = (0.330, 0.370)
CLEAR_GAP = 0.28  # from here on "left of" is said of two centres
POSSIBLE_GAP = 0.08  # below this nobody would call it "left of"
NEAREST = 0.72  # centres may come this near, in sums of radii: some occlusion, nothing mostly hidden


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object; `x`, `y`, `radius` are shares of the image side and `angle` is in degrees."""

    colour: str
    shape: str
    filling: str
    size: str
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.2
    angle: float = 0.0

    @property
    def pair(self) -> tuple[str, str]:
        return self.colour, self.shape

    @property
    def label(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclasses.dataclass(frozen=True)
class Scene:
    """Things in the order in which they are painted, and relations `(i, name, j)` that clearly hold."""

    things: tuple[Thing, ...]
    relations: tuple[tuple[int, str, int], ...] = ()

    def may_hold(self, i: int, relation: str, j: int) -> bool:
        """Whether a generous reader could call the relation true; a hard negative must fail even this."""
        if relation == "inside":
            return (i, relation, j) in self.relations
        return self._gap(i, relation, j) > POSSIBLE_GAP

    def clearly_holds(self, i: int, relation: str, j: int) -> bool:
        """Whether every reader would call the relation true; captions state nothing less."""
        if relation == "inside":
            return (i, relation, j) in self.relations
        gap, a, b = self._gap(i, relation, j), self.things[i], self.things[j]
        across = abs(a.y - b.y) if DIRECTIONS[relation][0] else abs(a.x - b.x)
        return gap >= CLEAR_GAP and gap >= 2 * across

    def _gap(self, i, relation, j):
        (dx, dy), a, b = DIRECTIONS[relation], self.things[i], self.things[j]
        return dx * (a.x - b.x) + dy * (a.y - b.y)


# ---- What is in the scene, before it is laid out ----


def sample(rng: np.random.Generator, kind: str, pairs) -> Scene:
    """Draws the things of a scene and the relations that shall hold; `lay_out` then finds the places.

    Args:
      kind: "single", "related" (two things and a relation), "alike" (two things of one shape and a direction), "both"
        (two things) or "several" (three or four).
      pairs: the (colour, shape) pairs to draw from.
    """
    count = {"single": 1, "several": int(rng.integers(3, 5))}.get(kind, 2)
    while True:
        of_shape = str(rng.choice(SHAPES))
        choices = [pair for pair in pairs if kind != "alike" or pair[1] == of_shape]
        chosen = rng.choice(len(choices), count, replace=False)
        things = tuple(_thing(rng, choices[i], rare_large=kind == "several") for i in chosen)
        scene = Scene(things, relations_of(rng, kind, count))
        if is_possible(scene, pairs):
            return scene


def _thing(rng, pair, rare_large):
    size = "large" if rng.random() < (0.25 if rare_large else 0.5) else "small"
    return Thing(*pair, filling=str(rng.choice(FILLINGS, p=FILLING_SHARES)), size=size)


def relations_of(rng: np.random.Generator, kind: str, count: int, related=RELATIONS) -> tuple[tuple, ...]:
    """Draws the relations that shall hold between `count` things of a kind of scene; `related`: those of two things."""
    if kind == "related":
        return ((0, str(rng.choice(related)), 1),)
    if kind == "alike":
        return ((0, str(rng.choice(list(DIRECTIONS))), 1),)
    if kind == "several" and rng.random() < 0.6:
        first = str(rng.choice(list(DIRECTIONS)))
        # Four things lie in a 2 x 2 grid: where one pair shares a row, so does the other.
        names = (first, str(rng.choice([first, OPPOSITE[first]])))
        return tuple((i, names[i // 2], i + 1) for i in range(0, min(count, 4) - 1, 2))
    return ()


def is_possible(scene: Scene, pairs) -> bool:
    """Whether the scene can be drawn: allowed and distinct pairs, and things that can hold what is inside them."""
    used = [thing.pair for thing in scene.things]
    return (
        len(set(used)) == len(used)
        and set(used) <= set(pairs)
        and all(
            relation != "inside" or can_hold(scene.things[j], scene.things[i]) for i, relation, j in scene.relations
        )
    )


def can_hold(outer, inner) -> bool:
    """Whether `inner` can be drawn inside `outer`; anything with a shape and a colour."""
    return outer.shape not in ("moon", "bar") and outer.colour != inner.colour  # those have no room inside


# ---- Siblings: scenes that differ from a base in a fact or two ----


def sibling(base: Scene, number: int, rng: np.random.Generator, pairs) -> Scene:
    """The `number`-th scene of a group (0 = the base itself): the same words, bound to other things or places.

    A single thing gets another shape, colour or filling. Random scenes of a batch hardly ever agree in all colours and
    shapes, so that a contrastive loss would never ask which colour belongs to which thing, nor where it lies.
    """
    edit = (None, *_edits(base))[number]
    if edit is None:
        return base
    for change in (edit, _recolour):  # what cannot be edited so (an unseen pair would arise) gets another colour
        for _ in range(20):
            changed = change(base, rng)
            if changed != base and is_possible(changed, pairs):
                return changed
    return base


def _edits(base):
    if len(base.things) == 1:
        return _reshape, _recolour, _restyle
    if len({thing.shape for thing in base.things}) == 1 and base.relations:
        return _turn, _tilt, _tilt_and_turn  # exchanged colours would be the same as exchanged places
    return _exchange_colours, _turn, _exchange_and_turn


def replace_thing(scene: Scene, i: int, **changes) -> Scene:
    """The scene with some attributes of thing `i` changed."""
    things = list(scene.things)
    things[i] = dataclasses.replace(things[i], **changes)
    return dataclasses.replace(scene, things=tuple(things))


def _recolour(scene, rng):
    return replace_thing(scene, int(rng.integers(len(scene.things))), colour=str(rng.choice(COLOURS)))


def _reshape(scene, rng):
    return replace_thing(scene, int(rng.integers(len(scene.things))), shape=str(rng.choice(SHAPES)))


def _restyle(scene, rng):
    return replace_thing(scene, 0, filling=str(rng.choice(FILLINGS, p=FILLING_SHARES)), size=str(rng.choice(SIZES)))


def _turn(scene, rng):
    """Exchanges the places of related things; without a relation there is nothing to exchange."""
    return dataclasses.replace(scene, relations=tuple((j, relation, i) for i, relation, j in scene.relations))


def _tilt(scene, rng):
    """What lay side by side lies one above the other."""
    names = {"left": "above", "right": "below", "above": "left", "below": "right", "inside": "inside"}
    return dataclasses.replace(scene, relations=tuple((i, names[relation], j) for i, relation, j in scene.relations))


def _tilt_and_turn(scene, rng):
    return _turn(_tilt(scene, rng), rng)


def _exchange_colours(scene, rng):
    first, second = scene.things[:2]
    return replace_thing(replace_thing(scene, 0, colour=second.colour), 1, colour=first.colour)


def _exchange_and_turn(scene, rng):
    return _turn(_exchange_colours(scene, rng), rng)


# ---- Where the things lie ----


def lay_out(scene: Scene, rng: np.random.Generator) -> Scene:
    """Gives every thing a place, a radius and an angle such that the scene's relations clearly hold.

    A draw in which a thing would be mostly hidden or cut by the border is thrown away and drawn again.
    """
    inside = any(relation == "inside" for _, relation, _ in scene.relations)
    place = _place_inside if inside else _place_pair if len(scene.things) == 2 else _place_in_cells
    while True:
        placed = place(scene, rng)
        if inside or (_fits(placed) and all(placed.clearly_holds(*relation) for relation in placed.relations)):
            return placed if inside else _paint_in_any_order(placed, rng)


def _fits(scene):
    inside = all(t.radius - 0.02 <= v <= 1.02 - t.radius for t in scene.things for v in (t.x, t.y))
    return inside and all(
        np.hypot(a.x - b.x, a.y - b.y) >= NEAREST * (a.radius + b.radius)
        for a, b in itertools.combinations(scene.things, 2)
    )


def _placed(thing, rng, x, y, radius=None):
    radius = rng.uniform(*(radius or RADIUS[thing.size]))
    return dataclasses.replace(thing, x=float(x), y=float(y), radius=float(radius), angle=float(rng.uniform(-5, 5)))


def _place_pair(scene, rng):
    """Two things along the direction of their relation, or along any where none is asked for."""
    relation = scene.relations[0] if scene.relations else (0, str(rng.choice(list(DIRECTIONS))), 1)
    i, name, j = relation
    dx, dy = np.multiply(DIRECTIONS[name], rng.uniform(CLEAR_GAP, 0.6))
    across = rng.uniform(-0.5, 0.5) * max(abs(dx), abs(dy))
    dx, dy = (dx, across) if dx else (across, dy)
    x, y = rng.uniform(0.35, 0.65, 2)
    things = list(scene.things)
    things[i] = _placed(things[i], rng, x + dx / 2, y + dy / 2)
    things[j] = _placed(things[j], rng, x - dx / 2, y - dy / 2)
    return dataclasses.replace(scene, things=tuple(things))


def _place_in_cells(scene, rng):
    """One thing anywhere; three or four in the cells of a 2 x 2 grid, with jitter."""
    if len(scene.things) == 1:
        return dataclasses.replace(scene, things=(_placed(scene.things[0], rng, *rng.uniform(0.15, 0.85, 2)),))
    if len(scene.things) > 4:
        return _place_in_six(scene, rng)
    cells = rng.permutation(4)[: len(scene.things)]
    centres = 0.27 + 0.46 * np.stack([cells % 2, cells // 2], 1) + rng.uniform(-0.1, 0.1, (len(cells), 2))
    things = tuple(_placed(thing, rng, *centre) for thing, centre in zip(scene.things, centres))
    return dataclasses.replace(scene, things=things)


def _place_in_six(scene, rng):
    """Five or six small things in 3 x 2 or 2 x 3 cells: as far apart as "left of" asks for, so with little jitter."""
    cells = rng.permutation(6)[: len(scene.things)]
    centres = np.stack([0.18 + 0.32 * (cells % 3), 0.27 + 0.46 * (cells // 3)], 1)
    centres = (centres + rng.uniform(-0.02, 0.02, centres.shape))[:, :: int(rng.choice((1, -1)))]
    things = tuple(_placed(thing, rng, *centre) for thing, centre in zip(scene.things, centres))
    return dataclasses.replace(scene, things=things)


def _place_inside(scene, rng):
    """The outer thing first, large, and the inner one small and near its centre."""
    ((inner, name, outer),) = scene.relations
    x, y = rng.uniform(OUTER_RADIUS[1], 1 - OUTER_RADIUS[1], 2)
    jitter = rng.uniform(-0.03, 0.03, 2)
    holder = _placed(dataclasses.replace(scene.things[outer], size="large"), rng, x, y, OUTER_RADIUS)
    held = _placed(
        dataclasses.replace(scene.things[inner], size="small"), rng, x + jitter[0], y + jitter[1], INNER_RADIUS
    )
    return Scene((holder, held), ((1, name, 0),))


def _paint_in_any_order(scene, rng):
    order = [int(i) for i in rng.permutation(len(scene.things))]
    relations = tuple((order.index(i), name, order.index(j)) for i, name, j in scene.relations)
    return Scene(tuple(scene.things[i] for i in order), relations)
