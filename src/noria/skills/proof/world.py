"""The picture world: requests by grammar with paraphrases, in three times, over things that two studios drew.

Six intents are known at the beginning; a seventh appears at the last time. Every phrasing belongs to one half, `seen`
or `unseen`, and the test is made of unseen ones. Some requests may go to either of two skills, some are out of domain.
What the world implies by construction (that an assistant obeys what a body states more often than what it does not) is
no claim of the proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from noria.skills.bank.bank import Bank
from noria.skills.bank.skill import make_skill
from noria.skills.judging.rubric import Rubric
from noria.skills.judging.rules import Rule
from noria.skills.proof.pictures import Catalogue
from noria.skills.proposing.protocols import TaskSpec
from noria.skills.traffic.samples import NO_SKILL, Sample

PHRASES: Mapping[str, tuple[str, ...]] = {
    "exact-match": (
        "where can I buy this exact {x}", "find the same {x} for sale", "I want to order this {x}",
        "show me a listing for the {x} in the photo", "which shop sells this {x}", "how much does this {x} cost",
        "get me this {x} at the best price", "is this {x} in stock anywhere", "buy the {x} I photographed",
        "price check on this {x}", "purchase an identical {x}", "what would I pay for this {x}",
        "add this {x} to my basket", "look up offers for the same {x}", "who has the {x} from my picture cheapest",
        "link me to a store page of this {x}",
    ),
    "multi-product": (
        "what are all the things in this picture", "split this scene with the {x} into items",
        "list every product here",
        "separate the items next to the {x}", "there are several objects, identify each",
        "break this photo down into products",
        "compare the items in the photo", "how many different things are there besides the {x}",
        "name each object lying around the {x}", "go through everything in the image one by one",
        "tag all items of this collage", "tell apart the pieces in this set with a {x}",
        "itemise the whole picture", "enumerate the goods around the {x}", "what else is beside the {x} here",
        "count and label the objects",
    ),
    "style-ideas": (
        "what goes well with this {x}", "give me decoration ideas around a {x}",
        "suggest a matching look for the {x}",
        "how do I style a {x} at home", "inspire me with a theme for this {x}", "which colours fit this {x}",
        "create a mood board from this {x}", "what would look nice beside the {x}", "ideas for a party themed {x}",
        "recommend something in the same spirit as this {x}", "make an outfit inspired by the {x}",
        "help me design a room around this {x}", "show variations in the vibe of this {x}",
        "what pairs nicely with a {x}", "dress up a table with this {x}", "artsy ways to present a {x}",
    ),
    "encyclopedia": (
        "what is this {x} and where does it come from", "tell me facts about the {x}",
        "explain the history of the {x}",
        "teach me something about this {x}", "who invented the {x}", "what does a {x} mean in culture",
        "describe how a {x} works", "give background knowledge on the {x}", "why is it called a {x}",
        "what is the origin of the {x}", "interesting trivia about a {x}", "educate me on the {x}",
        "what should I know about a {x}", "is the {x} dangerous or harmless", "summarise what a {x} is",
        "define the {x} in the picture",
    ),
    "read-text": (
        "read the text on this label", "what does the receipt say", "transcribe the sign in the photo",
        "extract the numbers from this ticket", "copy the writing next to the {x}",
        "translate the words on the package",
        "type out the note in this picture", "what is the total on the bill", "scan this document for me",
        "give me the letters printed on the {x}", "convert this screenshot to text", "which date is printed here",
        "ocr this image please", "read aloud the caption under the {x}", "what is written here", "digitise this page",
    ),
    "recipe": (
        "how do I cook with this {x}", "give me a recipe using {x}", "what can I make for dinner from a {x}",
        "steps to prepare a dish with {x}", "which ingredients go into a meal with {x}",
        "bake something with this {x}",
        "a quick soup with {x}", "how long do I boil a {x}", "lunch ideas from leftovers and {x}",
        "turn this {x} into a dessert", "what spices suit a {x} stew", "a vegetarian dish that features {x}",
        "cooking instructions for {x}", "how to fry a {x}", "a healthy breakfast with {x}", "marinade for {x}",
    ),
    "care-guide": (
        "how do I clean this {x}", "how should I store a {x} so that it lasts", "what maintenance does a {x} need",
        "remove a stain from my {x}", "how to repair a broken {x}", "can I wash the {x} in water",
        "how often should I service a {x}", "protect my {x} from rust", "polish this old {x}",
        "keep the {x} from getting damaged", "my {x} is dirty, what now", "wipe down a {x} without scratches",
        "fix a crack in the {x}", "how to look after a {x}", "safe cleaning products for a {x}", "restore a worn {x}",
    ),
}  # fmt: skip
KNOWN = tuple(PHRASES)[:6]
NEW = "care-guide"
OUT = (
    "what is the weather tomorrow", "book a taxi to the airport", "set an alarm for seven",
    "who won the match last night",
    "play some jazz", "call my mother", "how do I file my taxes", "tell me a joke", "solve this equation",
    "turn off the lights", "what time is it in Tokyo", "remind me about the meeting", "write a poem about rain",
    "open the garage door", "what is the exchange rate of the euro", "navigate home", "send an email to the team",
    "how far is the moon", "stop the music", "draft my resignation letter", "is my flight delayed", "spell necessary",
    "convert ten miles to kilometres", "who is the president of Peru", "mute the television", "how tall is Everest",
    "order me a pizza", "what is on at the cinema", "book a table for two", "translate good night into Dutch",
    "when is the next full moon", "start the dishwasher", "how many days until Easter", "recommend a novel",
    "what is my account balance", "turn the volume down", "block this caller", "when does the bank open",
    "show me the news", "find a plumber near me", "how old is the universe", "cancel my subscription",
    "rename this file", "what does the traffic look like", "reserve a hotel in Rome", "read my messages",
    "how do I tie a tie", "plan a trip to Norway", "what is the capital of Chad", "dim the bedroom lamp",
    "track my parcel", "flip a coin", "how do vaccines protect people", "play the next episode", "check my spelling",
    "how far can a whale swim", "schedule a haircut", "lock the front door", "who painted the ceiling in Rome",
    "is the pharmacy open on Sunday", "sum up my week", "what rhymes with orange", "log my run", "renew my passport",
)  # fmt: skip
BOUNDARY = (
    (("exact-match", "style-ideas"), "find something like this {x} I could buy"),
    (("encyclopedia", "recipe"), "is a {x} good to eat and why"),
    (("read-text", "exact-match"), "what does the price tag on the {x} say"),
    (("multi-product", "exact-match"), "shop every item next to the {x}"),
)
OPENINGS = ("", "", "", "hi, ", "please ", "hey ", "quick question: ", "ok so ")
PURPOSES = {
    "exact-match": "Handles products in pictures.",
    "multi-product": "Handles pictures with things.",
    "style-ideas": "Handles suggestions on a picture.",
    "encyclopedia": "Handles questions on a picture.",
    "read-text": "Handles useful tasks on a picture.",
    "recipe": "Handles practical questions on a picture.",
    "care-guide": "Handles the upkeep of things.",
}
"""Descriptions as a first draft has them: vague, and alike."""
TOOLS = {
    "exact-match": "image_search", "multi-product": "detect", "style-ideas": "style_search",
    "encyclopedia": "kb_lookup",
    "read-text": "ocr", "recipe": "recipe_lookup", "care-guide": "kb_lookup",
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """What a good answer does: by rule where a pattern sees it, by content where only a judge does.

    `faults` are what judges say of an answer without it: none of them holds the sentence that a body should have.
    """

    id: str
    dimension: str
    say: str
    token: str
    structural: bool
    faults: tuple[str, ...] = ()

    def stated(self, body: str) -> str:
        """Way in which a body states the need: `said` in its own sentence, `named` by a fault, or empty."""
        return "said" if self.say in body else "named" if any(f in body for f in self.faults) else ""


NEEDS: tuple[Need, ...] = (
    Need("tool", "TCR", "Call the tool of this skill before the answer.", "", True),
    Need("cards", "CCC", "Show the products as cards with a title and a price.", "", True),
    Need("source", "CA", "End the answer with its source in brackets.", "[source]", True),
    Need("caution", "CA", "Say how sure the answer is.", "sure", True),
    Need("reason", "CQ", "Give the reason for the answer.", "because", False,
         ("nothing backs the claim", "it is left open why", "no grounds are given")),
    Need("next", "CQ", "Offer a next step to the user.", "next", False,
         ("the user is left without a way on", "it stops short", "no follow-up is offered")),
    Need("named", "CQ", "Name the thing in the picture.", "named", False,
         ("it stays unclear what is meant", "the object has no name", "it speaks of an object only")),
)  # fmt: skip
WRITTEN = ("source", "named")
"""Needs that the first bodies state; stage 3 has to find the others."""
CARDED = ("exact-match", "multi-product", "style-ideas")


def rubric(*, least_answers: int = 50) -> Rubric:
    """The rubric of the world, whose rules see the structural needs."""
    rules = []
    for skill in PHRASES:
        rules.append(Rule(id=f"tool.{skill}", dimension="TCR", severity="hard", kind="tool_called", tool=TOOLS[skill],
                          skills=(skill,), say=NEEDS[0].say))  # fmt: skip
    rules += [
        Rule(id="cards", dimension="CCC", severity="hard", kind="cards", least=1, fields=("title", "price"),
             only_with_cards=True, say=NEEDS[1].say),
        Rule(id="source", dimension="CA", severity="hard", kind="must_match", pattern=r"\[source\]", say=NEEDS[2].say),
        Rule(id="caution", dimension="CA", severity="hard", kind="must_match", pattern=r"\bsure\b", say=NEEDS[3].say),
    ]  # fmt: skip
    return Rubric(rules=tuple(rules), least_answers=least_answers)


def first_bank(*, needs: Sequence[str] = WRITTEN, skills: Sequence[str] = KNOWN) -> Bank:
    """Skills with vague descriptions and bodies that state some of what is needed."""
    by_id = {need.id: need for need in NEEDS}
    made = {}
    for name in skills:
        lines = "\n".join(f"- {by_id[n].say}" for n in needs)
        body = (
            f"# {name}\n\n{PURPOSES[name]}\n\n## Rules\n\n{lines}\n"
            if lines
            else f"# {name}\n\n{PURPOSES[name]}\n"
        )
        made[name] = make_skill(name, PURPOSES[name], body, tools=[TOOLS[name]])
    return Bank(made)


def tasks(skills: Sequence[str] = KNOWN) -> list[TaskSpec]:
    """Task specifications from which stage 1 writes the first bank."""
    by_id = {need.id: need for need in NEEDS}
    rules = tuple(by_id[n].say for n in WRITTEN)
    return [TaskSpec(name=n, purpose=PURPOSES[n], tools=(TOOLS[n],), rules=rules) for n in skills]


def requests(
    count: int,
    catalogue: Catalogue,
    generator: np.random.Generator,
    *,
    half: str = "seen",
    time: int = 0,
    prefix: str = "",
    places: Sequence[int] = (0, 1, 2, 3, 4),
) -> list[Sample]:
    """Requests of one time.

    Args:
        count: number of requests.
        catalogue: things of the world.
        generator: draws them.
        half: phrasings that are used, `seen` or `unseen`.
        time: 0 as at the beginning, 1 with another mix of intents, 2 with the new intent as well.
        prefix: beginning of the ids.
        places: residues of five of the things and out-of-domain sentences that are drawn, so that pools share none.
    """
    of_places = [n for n in range(len(catalogue.things)) if n % 5 in places]
    intents = [*KNOWN, NEW] if time == 2 else list(KNOWN)
    weights = np.ones(len(intents))
    if time:
        weights[:3] = (0.4, 0.4, 2.0)
    weights = weights / weights.sum()
    made = []
    for number in range(count):
        draw, thing = generator.random(), int(generator.choice(of_places))
        seen = catalogue.search(thing, 1)[0]
        if draw < 0.12:
            phrases = [p for p in _half(OUT, half) if OUT.index(p) // 2 % 5 in places]
            expected: tuple[str, ...] = (NO_SKILL,)
            phrase = str(generator.choice(phrases))
        elif draw < 0.27 and half == "seen":
            labels, phrase = BOUNDARY[int(generator.integers(len(BOUNDARY)))]
            expected = labels
        else:
            intent = str(generator.choice(intents, p=weights))
            phrase, expected = str(generator.choice(_half(PHRASES[intent], half))), (intent,)
        opening = str(generator.choice(OPENINGS))
        query = opening + phrase.format(x=catalogue.things[thing].name)
        made.append(
            Sample(
                f"{prefix}{half}-{time}-{number}",
                query,
                f"thing-{thing}" if expected != (NO_SKILL,) else f"out-{OUT.index(phrase)}",
                expected,
                cards=expected[0] in CARDED,
                evidence={
                    "thing": catalogue.things[thing].name,
                    "found": catalogue.things[seen].name,
                    "kind": expected[0],
                },
                episode=f"T{time}",
            )
        )
    return made


def _half(phrases: Sequence[str], half: str) -> tuple[str, ...]:
    return tuple(p for n, p in enumerate(phrases) if (n % 2 == 0) == (half == "seen"))


def chance(*parts: object) -> float:
    """A number in [0, 1) that follows from its parts: the same circumstances give the same answer."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56
