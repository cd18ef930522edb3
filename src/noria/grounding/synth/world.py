"""SynthOCEAN's world: people whose traits are caused by what they do, and questions that only seeing answers.

A clip has ten segments. In each the person does one of twelve things, six pairs of opposites; five pairs belong to a
trait each, and a trait's level is 3 + (how often one side) − (how often the other), so levels are uniform on 1 … 5 and
every rating has its evidence. The voice has one of four states a segment; the head stands left or right.

Every question is leak-free by construction: what is right is uniform over a set that is symmetric under the choice,
distractors are drawn without regard to what the clip shows, all options of a question have the same length, and
letters are uniform. So a model that does not see the clip is right one time in six.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from noria.grounding.corpus.records import Analysis, Box, Corpus, Observation, Option, Question, Record
from noria.grounding.corpus.types import CATEGORIES, LETTERS, LEVELS, TRAITS
from noria.grounding.synth.config import Knobs

__all__ = [
    "BEHAVIOURS",
    "PAIRS",
    "VOICES",
    "Behaviour",
    "Scene",
    "make_corpus",
    "make_scene",
    "reasons",
    "record_of",
]

SEGMENTS = 10
SECONDS = 1.2
"""Length of a segment."""


@dataclass(frozen=True)
class Behaviour:
    """Something a person does: its words (24 characters each), its trait (None: of none) and which way it moves it."""

    words: str
    feeling: str
    trait: int | None
    sign: int
    region: str

    @property
    def on_face(self) -> bool:
        """Whether the face box shows it."""
        return self.region in ("mouth", "eyebrows", "eyes")


def _pair(
    region: str, trait: int | None, up: tuple[str, str], down: tuple[str, str]
) -> tuple[Behaviour, Behaviour]:
    return Behaviour(*up, trait, 1, region), Behaviour(*down, trait, -1, region)


PAIRS = (
    _pair("mouth", 0, ("the mouth curves upwards", "delight"), ("the mouth bends downward", "sadness")),
    _pair("eyebrows", 4, ("the eyebrows rise upward", "arousal"), ("the eyebrows draw closer", "concern")),
    _pair("eyes", 3, ("both eyes move leftwards", "longing"), ("both eyes move rightward", "anxiety")),
    _pair("head", 1, ("the head tilts leftwards", "empathy"), ("the head tilts rightward", "mistake")),
    _pair("body", 2, ("the body leans in closer", "resolve"), ("the body leans away back", "neglect")),
    _pair("hands", None, ("one hand rises, the left", "welcome"), ("one hand rises, at right", "refusal")),
)
BEHAVIOURS = tuple(itertools.chain.from_iterable(PAIRS))
"""Behaviour 2p + s is side s of pair p."""
FACE = tuple(number for number, one in enumerate(BEHAVIOURS) if one.on_face)
PAIR_OF = {0: 0, 1: 3, 2: 4, 3: 2, 4: 1}
"""Trait to its pair."""

VOICES = (
    ("the voice grows much louder", "power"),
    ("the voice grows much softer", "peace"),
    ("the voice climbs far higher", "alarm"),
    ("the voice drops down a tone", "poise"),
)
"""State of the voice: its words and its feeling."""


@dataclass(frozen=True)
class Scene:
    """All that a clip is made of.

    Attributes:
        video_id: id of the clip.
        levels: levels of the five traits, 0 … 4.
        behaviours: [10] which of the twelve.
        voices: [10] which of the four.
        right: [10] whether the head stands on the right.
        stripes: [5] hue of the shirt's stripes, 0 … 4.
        look: skin, hair and wall as RGB, pitch in Hz.
        words: the transcript.
    """

    video_id: str
    levels: tuple[int, ...]
    behaviours: tuple[int, ...]
    voices: tuple[int, ...]
    right: tuple[bool, ...]
    stripes: tuple[int, ...]
    look: Look
    words: str


@dataclass(frozen=True)
class Look:
    """What a person and the room look and sound like."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    wall: tuple[int, int, int]
    pitch: float


# -- scenes -----------------------------------------------------------------------------------------------------------


def make_scene(
    video_id: str, knobs: Knobs, generator: np.random.Generator, look: Look | None = None
) -> Scene:
    """Draw a clip's content."""
    levels = generator.integers(5, size=5)
    behaviours: list[int] = []
    for trait, level in enumerate(levels):
        pair = 2 * PAIR_OF[trait]
        lean = int(level) - 2
        # Every trait has evidence: a medium one shows both sides once.
        behaviours += [pair, pair + 1] if lean == 0 else [pair + (lean < 0)] * abs(lean)
    while len(behaviours) < SEGMENTS:
        room = SEGMENTS - len(behaviours)
        if room >= 2 and generator.random() < 0.5:
            pair = 2 * PAIR_OF[int(generator.integers(5))]
            behaviours += [pair, pair + 1]  # cancels out
        else:
            behaviours.append(10 + int(generator.integers(2)))
    generator.shuffle(behaviours)
    noisy = generator.random(5) < knobs.label_noise
    step = generator.choice([-1, 1], size=5)
    given = np.where(
        noisy, np.where((levels + step < 0) | (levels + step > 4), levels - step, levels + step), levels
    )
    coloured = generator.random(5) < knobs.confounder
    stripes = np.where(coloured, given, generator.integers(5, size=5))
    return Scene(
        video_id,
        tuple(int(x) for x in given),
        tuple(behaviours),
        tuple(int(x) for x in generator.integers(4, size=SEGMENTS)),
        tuple(bool(x) for x in generator.integers(2, size=SEGMENTS)),
        tuple(int(x) for x in stripes),
        look or make_look(generator),
        _speech(generator),
    )


def make_look(generator: np.random.Generator) -> Look:
    """Draw a person and a room."""
    skins = ((236, 196, 164), (210, 160, 120), (150, 104, 72), (104, 70, 50))
    hairs = ((40, 30, 26), (110, 70, 40), (196, 160, 96), (120, 120, 124))
    walls = ((196, 206, 214), (206, 200, 184), (176, 196, 180), (200, 186, 200))
    skin, hair, wall = (table[int(generator.integers(len(table)))] for table in (skins, hairs, walls))
    return Look(skin, hair, wall, float(generator.uniform(110, 190)))


_SPEECH = """
so we took the early train and then walked along the river until noon because the bridge was closed and nobody had told
us about the market that moves every year to another street where my cousin keeps a shop for old radios and lamps which
she repairs in winter when the road to the lake is under snow
"""


def _speech(generator: np.random.Generator) -> str:
    """Words that say nothing about anyone."""
    words = _SPEECH.split()
    picked = generator.choice(len(words), size=int(generator.integers(24, 44)))
    return " ".join(words[int(n)] for n in picked) + "."


def make_corpus(
    count: int, knobs: Knobs | None = None, *, seed: int = 0, prefix: str = "synth"
) -> tuple[list[Scene], Corpus]:
    """`count` clips and their records, the same for the same seed whatever the size of the frames.

    Args:
        count: number of clips.
        knobs: knobs of the world; the defaults, if None.
        seed: seed of scenes and records.
        prefix: prefix of the ids.
    """
    knobs = knobs or Knobs()
    scenes: list[Scene] = []
    source = 0
    while len(scenes) < count:
        generator = np.random.default_rng([seed, source])
        look = make_look(generator)
        for part in range(1 + (generator.random() < knobs.two_clips)):
            name = f"{prefix}-{source:05d}.{part:03d}.mp4"
            scenes.append(make_scene(name, knobs, generator, look))
        source += 1
    scenes = scenes[:count]
    records = [record_of(scene, knobs, np.random.default_rng([seed, 1, n])) for n, scene in enumerate(scenes)]
    return scenes, Corpus(tuple(records))


# -- records ----------------------------------------------------------------------------------------------------------


def span(segment: int) -> tuple[float, float]:
    """Start and end of a segment in seconds."""
    return round(SECONDS * segment, 1), round(SECONDS * (segment + 1), 1)


def middle(segment: int) -> float:
    """Middle of a segment in seconds."""
    return round(SECONDS * (segment + 0.5), 1)


def face_box(right: bool) -> tuple[float, float, float, float]:
    """Where the face is; x, y, w, h."""
    return (0.49 if right else 0.15), 0.1, 0.36, 0.56


def region_box(behaviour: Behaviour, right: bool) -> tuple[float, float, float, float]:
    """Where a behaviour is to be seen."""
    x, y, w, h = face_box(right)
    if behaviour.region == "hands":
        return (0.02 if behaviour.sign > 0 else 0.78), 0.45, 0.2, 0.3
    inner = {
        "mouth": (0.15, 0.62, 0.7, 0.25),
        "eyebrows": (0.1, 0.18, 0.8, 0.2),
        "eyes": (0.1, 0.33, 0.8, 0.18),
    }
    a, b, c, d = inner.get(behaviour.region, (0.0, 0.0, 1.0, 1.0))
    return tuple(round(v, 3) for v in (x + a * w, y + b * h, c * w, d * h))  # type: ignore[return-value]


def record_of(scene: Scene, knobs: Knobs, generator: np.random.Generator) -> Record:
    """The scene's record: exact observations, boxes, analyses with their evidence, and seven questions."""
    observations = _observations(scene)
    scores = [round(0.2 * level + float(generator.uniform(0.02, 0.18)), 4) for level in scene.levels]
    analyses = tuple(_analysis(scene, trait, scores[trait], observations) for trait in range(5))
    return Record(
        video_id=scene.video_id,
        video_path=scene.video_id,
        transcription=scene.words,
        original_scores=dict(zip(TRAITS, scores, strict=True)),
        observations=observations,
        personality_analyses=analyses,
        mcq_questions=tuple(_questions(scene, knobs, generator)),
    )


def _observations(scene: Scene) -> tuple[Observation, ...]:
    """A behaviour and a state of the voice a segment, and the room."""
    observations = []
    for segment in range(SEGMENTS):
        one = BEHAVIOURS[scene.behaviours[segment]]
        start, end = span(segment)
        box = Box(middle(segment), *region_box(one, scene.right[segment]), region=one.region)
        kind = "Expression" if one.on_face else "Action"
        observations.append(Observation(kind, start, end, f"In this moment {one.words}.", (box,)))
    for segment in range(SEGMENTS):
        observations.append(
            Observation("Audio", *span(segment), f"In this moment {VOICES[scene.voices[segment]][0]}.")
        )
    observations.append(
        Observation("Background", 0.0, SEGMENTS * SECONDS, "A plain wall in one colour, evenly lit.")
    )
    return tuple(observations)


def _analysis(scene: Scene, trait: int, score: float, observations: Sequence[Observation]) -> Analysis:
    mine = [s for s in range(SEGMENTS) if BEHAVIOURS[scene.behaviours[s]].trait == trait]
    level, text = (
        scene.levels[trait],
        reasons(trait, scene.levels[trait], [(s, scene.behaviours[s]) for s in mine]),
    )
    return Analysis(TRAITS[trait].capitalize(), LEVELS[level], round(score, 2), text, evidence=tuple(mine))


def reasons(trait: int, level: int, moments: Sequence[tuple[int, int]]) -> str:
    """A rationale for a trait's level: what was done in each (segment, behaviour), and which way it speaks."""
    name = TRAITS[trait].capitalize()
    parts = []
    for segment, number in moments:
        (start, end), one = span(segment), BEHAVIOURS[number]
        way = "more" if one.sign > 0 else "less"
        parts.append(f"at [{start}s - {end}s] {one.words}, which speaks for {way} {name}")
    return f"The {LEVELS[level]} {name} rests on what is shown: {'; '.join(parts) or 'nothing'}."


# -- questions --------------------------------------------------------------------------------------------------------


@dataclass
class _Draft:
    stem: str
    right: str
    wrong: list[str] = field(default_factory=list)
    why: str = ""


def _questions(scene: Scene, knobs: Knobs, generator: np.random.Generator) -> Iterable[Question]:
    makers = (_attribution, _counterfactual, _chain, _mixed, _micro, _spatial, _joint)
    for category, make in zip(CATEGORIES, makers, strict=True):
        draft = make(scene, knobs, generator)
        right = draft.right
        if generator.random() < knobs.solvable:
            right += "."
        texts = [right, *draft.wrong]
        order = generator.permutation(len(texts))
        options = tuple(Option(LETTERS[place], texts[int(n)]) for place, n in enumerate(order))
        letter = LETTERS[int(np.flatnonzero(order == 0)[0])]
        yield Question(category, draft.stem, options, letter, draft.why)


def _pick(generator: np.random.Generator, among: Sequence[int]) -> int:
    return among[int(generator.integers(len(among)))]


def _segment_of_trait(
    scene: Scene, generator: np.random.Generator, among: Sequence[int] = range(5)
) -> tuple[int, int]:
    """A trait, each as likely, and one of the segments that speak for it."""
    trait = _pick(generator, among)
    return trait, _pick(
        generator, [s for s in range(SEGMENTS) if BEHAVIOURS[scene.behaviours[s]].trait == trait]
    )


def _trait_words(trait: int, word: str) -> str:
    name = TRAITS[trait].capitalize()
    return f"{name} {'.' * (20 - len(name))} {word}"


def _ten_choose_six(right: tuple[int, int], generator: np.random.Generator) -> list[tuple[int, int]]:
    """Five other (trait, way) of the ten, such that at least four traits are among the six."""
    others = [pair for pair in itertools.product(range(5), (1, -1)) if pair != right]
    while True:
        picked = [others[int(n)] for n in generator.permutation(9)[:5]]
        if len({trait for trait, _ in [right, *picked]}) >= 4:
            return picked


def _attribution(scene: Scene, knobs: Knobs, generator: np.random.Generator) -> _Draft:
    trait, segment = _segment_of_trait(scene, generator)
    right = (trait, BEHAVIOURS[scene.behaviours[segment]].sign)
    start, end = span(segment)
    say = {1: "above", -1: "below"}
    return _Draft(
        f"During {start}s - {end}s, the person shows one behaviour. Which rating, above or below the middle, does it "
        "speak for most?",
        _trait_words(trait, say[right[1]]),
        [_trait_words(t, say[way]) for t, way in _ten_choose_six(right, generator)],
        BEHAVIOURS[scene.behaviours[segment]].words,
    )


def _counterfactual(scene: Scene, knobs: Knobs, generator: np.random.Generator) -> _Draft:
    trait, segment = _segment_of_trait(scene, generator)
    right = (trait, -BEHAVIOURS[scene.behaviours[segment]].sign)
    start, end = span(segment)

    def words(pair: tuple[int, int]) -> str:
        way = {1: "rises", -1: "falls"}[pair[1]]
        if not knobs.leak:
            return _trait_words(pair[0], way)
        before = scene.levels[pair[0]]
        after = min(4, max(0, before + pair[1]))
        return f"{TRAITS[pair[0]].capitalize()} {way} from {LEVELS[before]} to {LEVELS[after]}"

    return _Draft(
        f"If the person had NOT shown the behaviour around {start}s - {end}s, which rating would change, and how?",
        words(right),
        [words(pair) for pair in _ten_choose_six(right, generator)],
        BEHAVIOURS[scene.behaviours[segment]].words,
    )


def _chain(scene: Scene, knobs: Knobs, generator: np.random.Generator) -> _Draft:
    kinds = list(dict.fromkeys(scene.behaviours))  # in the order of first showing
    places = sorted(int(n) for n in generator.permutation(len(kinds))[:3])
    three = [BEHAVIOURS[kinds[n]].words for n in places]
    say = ["first {}, then {}, then {}".format(*order) for order in itertools.permutations(three)]
    return _Draft("In which order do these behaviours first occur over the whole clip?", say[0], say[1:])


def _mixed(scene: Scene, knobs: Knobs, generator: np.random.Generator) -> _Draft:
    _, segment = _segment_of_trait(scene, generator, (0, 3, 4))
    mine, voice = scene.behaviours[segment], scene.voices[segment]
    faces = [b for b in FACE if b != mine]
    seen = [mine, *(faces[int(n)] for n in generator.permutation(5)[:2])]
    tones = [v for v in range(4) if v != voice]
    heard = [voice, _pick(generator, tones)]
    say = [f"{BEHAVIOURS[b].feeling} mixed with {VOICES[v][1]}" for b in seen for v in heard]
    start, end = span(segment)
    stem = f"During {start}s - {end}s, which words fit the face and the voice of the person together?"
    return _Draft(stem, say[0], say[1:], f"{BEHAVIOURS[mine].words}; {VOICES[voice][0]}")


def _micro(scene: Scene, knobs: Knobs, generator: np.random.Generator) -> _Draft:
    trait, segment = _segment_of_trait(scene, generator)
    others = [s for s in range(SEGMENTS) if BEHAVIOURS[scene.behaviours[s]].trait != trait]
    wrong = [others[int(n)] for n in generator.permutation(len(others))[:5]]
    name = TRAITS[trait].capitalize()
    whose = f"their {LEVELS[scene.levels[trait]]} {name} level" if knobs.leak else f"their rating of {name}"
    return _Draft(
        f"At which time interval does the person show the cue that is most relevant to {whose}?",
        _interval(segment),
        [_interval(s) for s in wrong],
        BEHAVIOURS[scene.behaviours[segment]].words,
    )


def _interval(segment: int) -> str:
    return "[{:04.1f}s - {:04.1f}s]".format(*span(segment))


def _spatial(scene: Scene, knobs: Knobs, generator: np.random.Generator) -> _Draft:
    _, segment = _segment_of_trait(scene, generator, (0, 3, 4))
    mine = scene.behaviours[segment]
    box = _box_words(face_box(scene.right[segment]))
    return _Draft(
        f"At around {middle(segment)}s, a region is marked in the video ({box}, shares of the frame from its top "
        "left). What happens there?",
        BEHAVIOURS[mine].words,
        [BEHAVIOURS[b].words for b in FACE if b != mine],
    )


def _joint(scene: Scene, knobs: Knobs, generator: np.random.Generator) -> _Draft:
    segment = int(generator.integers(SEGMENTS))
    mine = scene.behaviours[segment]
    others = [s for s in range(SEGMENTS) if scene.behaviours[s] != mine]
    times = [segment, *(others[int(n)] for n in generator.permutation(len(others))[:2])]
    here = scene.right[segment]
    say = [f"[{middle(s):04.1f}s] {_box_words(face_box(side))}" for s in times for side in (here, not here)]
    return _Draft(
        f"At which time, and with the face in which place, does this occur: {BEHAVIOURS[mine].words}?",
        say[0],
        say[1:],
    )


def _box_words(box: tuple[float, float, float, float]) -> str:
    return "x={:.2f}, y={:.2f}, w={:.2f}, h={:.2f}".format(*box)
