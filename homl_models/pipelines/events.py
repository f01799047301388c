"""Synthetic texts of events (who did what where and when): for pre-training, classification, tagging and answering.

Generated, so that no file is needed and the right labels and answers are known.
"""

import dataclasses
import datetime
import random

from homl_models.pipelines import dates

NAMES = (
    "Ada", "Alan", "Anna", "Barbara", "Claude", "Dorothy", "Edsger", "Emmy", "Evelyn", "Frances", "Grace", "Hedy",
    "Isaac", "Jean", "John", "Karen", "Katherine", "Leslie", "Lise", "Margaret", "Marie", "Maryam", "Niklaus", "Rosa",
)  # fmt: skip
PLACES = (
    "Athens", "Berlin", "Cairo", "Dublin", "Geneva", "Havana", "Kyoto", "Lagos", "Lima", "Lisbon", "London", "Madrid",
    "New York", "Oslo", "Paris", "Prague", "Quebec", "Rio de Janeiro", "Rome", "San Marino", "Tokyo", "Vienna",
)  # fmt: skip
DEEDS = ("arrive", "arrived"), ("marry", "married"), ("lecture", "lectured"), ("sing", "sang"), ("perform", "performed")
ORDERS = (
    "{name} {did} in {place} on {date}.",
    "On {date} {name} {did} in {place}.",
    "In {place}, {name} {did} on {date}.",
    "It was in {place} that {name} {did} on {date}.",
)
LABELS = ("O", "B-DATE", "I-DATE", "B-NAME", "I-NAME", "B-PLACE", "I-PLACE")
SEASONS = "winter", "spring", "summer", "autumn"


@dataclasses.dataclass(frozen=True)
class Event:
    """An event, and the sentence that describes it."""

    name: str
    deed: tuple[str, str]
    place: str
    month: int
    date: str
    text: str


def events(rng, count, deeds=()):
    """`count` events of different people in different places. deeds: of each event; by default any."""
    found = []
    for i, (name, place) in enumerate(zip(rng.sample(NAMES, count), rng.sample(PLACES, count))):
        deed = deeds[i] if deeds else rng.choice(DEEDS)
        date = dates.FIRST + datetime.timedelta(days=rng.randrange((dates.LAST - dates.FIRST).days + 1))
        written = rng.choice(dates.forms(date))
        text = rng.choice(ORDERS).format(name=name, did=deed[1], place=place, date=written)
        found.append(Event(name, deed, place, date.month, written, text))
    return found


def documents(count, seed=0, num_events=4):
    """Documents of `num_events` sentences each."""
    rng = random.Random(seed)
    return [[event.text for event in events(rng, num_events)] for _ in range(count)]


def labelled(count, seed=0):
    """Texts, and the season (of the northern hemisphere) of each."""
    rng = random.Random(seed)
    found = [events(rng, 1)[0] for _ in range(count)]
    return [event.text for event in found], [SEASONS[event.month % 12 // 3] for event in found]


def tagged(count, seed=0):
    """Sentences [(words, labels), ...], with labels of `LABELS`."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        event = events(rng, 1)[0]
        words, labels, rest = [], [], event.text
        parts = {event.date: "DATE", event.name: "NAME", event.place: "PLACE"}
        while rest:
            part = next((part for part in parts if rest.startswith(part)), None)
            if part:
                some = part.split(" ")
                labels += [f"B-{parts[part]}", *[f"I-{parts[part]}"] * (len(some) - 1)]
                words, rest = words + some, rest[len(part) :]
            elif rest[0] in " ,.":
                if rest[0] != " ":
                    words, labels = [*words, rest[0]], [*labels, "O"]
                rest = rest[1:]
            else:
                word = rest.split(" ")[0]
                words, labels, rest = [*words, word], [*labels, "O"], rest[len(word) :]
        found.append((words, labels))
    return found


def questions(count, seed=0, num_events=3):
    """[(question, context, [(first character, answer)]), ...]: contexts of `num_events` events, a question on one.

    In a context everyone does something else, so `num_events` is at most the number of `DEEDS`, each of which is asked
    for twice as often as the one after it. So it helps to know the deed around a word even before the model has learned
    what the question asks for; where all deeds are asked for alike, 2 blocks of 128 learn neither in 4,000 steps of 32.
    """
    rng, found = random.Random(seed), []
    often = {deed: 2.0**-i for i, deed in enumerate(DEEDS)}
    for _ in range(count):
        some = events(rng, num_events, rng.sample(DEEDS, num_events))
        context = " ".join(event.text for event in some)
        [asked] = rng.choices(some, [often[event.deed] for event in some])
        question, answer = rng.choice([
            (f"When did {asked.name} {asked.deed[0]}?", asked.date),
            (f"Where did {asked.name} {asked.deed[0]}?", asked.place),
            (f"Who {asked.deed[1]} in {asked.place}?", asked.name),
        ])  # fmt: skip
        start = context.index(asked.text) + asked.text.index(answer)
        found.append((question, context, [(start, answer)]))
    return found
