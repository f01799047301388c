"""Labels and answers of synthetic texts are right: it is read back from the sentences by other means."""

import collections
import datetime
import itertools
import random
import re

import pytest

from homl_models import metrics
from homl_models.pipelines import dates, events

DO = {did: do for do, did in events.DEEDS}
ORDERS = (
    r"NAME DID in PLACE on (.+)\.",
    r"On (.+) NAME DID in PLACE\.",
    r"In PLACE, NAME DID on (.+)\.",
    r"It was in PLACE that NAME DID on (.+)\.",
)
SEASONS = "winter winter spring spring spring summer summer summer autumn autumn autumn winter"


def parsed(text):
    """A sentence -> its name, deed, place and date, as a reader takes them."""
    found, rest = {}, text
    for kind, options in (("place", events.PLACES), ("name", events.NAMES), ("did", DO)):
        [found[kind]] = re.findall(rf"(?<!\w)(?:{'|'.join(options)})(?!\w)", text)
        rest = rest.replace(found[kind], kind.upper(), 1)
    [found["date"]] = [match[1] for order in ORDERS if (match := re.fullmatch(order, rest))]
    return found


def month(written):
    """The month of a written date: by its name, or by its place among three numbers."""
    for number, name in enumerate(dates.MONTHS, 1):
        if name[:3] in written:
            return number
    return int(written.split("/")[0] if "/" in written else written.split(".")[1])


@pytest.fixture(scope="module")
def sampled():
    """Many events, three at a time, each with the facts of its sentence."""
    rng = random.Random(5)
    found = [event for _ in range(150) for event in events.events(rng, 3)]
    return [(event, parsed(event.text)) for event in found]


def test_a_sentence_describes_the_event(sampled):
    for event, found in sampled:
        assert found == {"name": event.name, "did": event.deed[1], "place": event.place, "date": event.date}
        assert event.deed in events.DEEDS
        assert event.month == month(event.date)


def test_all_names_places_deeds_months_and_orders_occur(sampled):
    assert {event.name for event, _ in sampled} == set(events.NAMES)
    assert {event.place for event, _ in sampled} == set(events.PLACES)
    assert {event.deed for event, _ in sampled} == set(events.DEEDS)
    assert {event.month for event, _ in sampled} == set(range(1, 13))
    assert {event.text.replace(event.name, "NAME").split(" ")[0] for event, _ in sampled} == {"NAME", "On", "In", "It"}
    years = {int(re.search(r"\d{4}", event.date)[0]) for event, _ in sampled}
    assert min(years) < 1920 < 2080 < max(years)


def test_events_of_one_draw_differ_in_name_and_place(sampled):
    for three in zip(*[iter(event for event, _ in sampled)] * 3):
        assert len({event.name for event in three}) == len({event.place for event in three}) == 3


def test_seasons_are_those_of_the_months():
    found, seasons = events.labelled(400, seed=3)
    assert set(seasons) == set(events.SEASONS)
    by_month = dict(enumerate(SEASONS.split(), 1))
    assert seasons == [by_month[month(parsed(text)["date"])] for text in found]


def test_every_word_has_the_label_of_what_it_is_part_of():
    found = events.tagged(300, seed=2)
    for words, labels in found:
        text = re.sub(r" ([,.])(?= |$)", r"\1", " ".join(words))
        read = parsed(text)
        spans = {kind: " ".join(words[first:last]) for kind, first, last in metrics.entities(labels)}
        assert spans == {kind.upper(): read[kind] for kind in ("name", "place", "date")}
        assert sorted(label for label in labels if label.startswith("B-")) == ["B-DATE", "B-NAME", "B-PLACE"]
        assert len(metrics.entities(labels)) == 3
        assert len(words) == len(labels)
        assert all(re.fullmatch(r"[^ ]+", word) for word in words)
    assert {label for _, labels in found for label in labels} == set(events.LABELS) - {"I-NAME"}  # all have one name
    assert {",", ".", "On"} <= {word for words, _ in found for word in words}


def test_words_are_those_of_the_sentence():
    for seed in range(50):
        [text], [(words, _)] = events.labelled(1, seed)[0], events.tagged(1, seed)
        assert "".join(words) == text.replace(" ", "")


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_question_has_one_right_answer_where_it_is_stated(count):
    assert_answered(events.questions(200, seed=4, num_events=count), count)


def test_a_date_that_others_have_too_is_found_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(dates, "LAST", dates.FIRST + datetime.timedelta(days=20))
    found = events.questions(200, seed=4, num_events=5)
    assert any(context.index(answer) != start for _, context, [(start, answer)] in found)
    assert_answered(found, 5)


def test_some_deeds_are_asked_for_more_often_and_in_any_order():
    asked, first = collections.Counter(), collections.Counter()
    for question, context, _ in events.questions(4000, seed=1, num_events=5):
        [word] = [word for word in re.findall(r"\w+", question) if word in {*DO, *DO.values()}]
        asked[DO.get(word, word)] += 1
        first[DO[re.search("|".join(DO), context)[0]]] += 1
    for i, do in enumerate(DO.values()):
        assert abs(asked[do] / 4000 - 16 / 31 / 2**i) < 0.03
        assert abs(first[do] / 4000 - 1 / 5) < 0.03


def assert_answered(questions, count):
    """Of `count` sentences each tells something, and what one of them tells is the answer, and the only one."""
    kinds, places = set(), set()
    for question, context, answers in questions:
        [(start, answer)] = answers
        assert context[start : start + len(answer)] == answer
        sentences = re.split(r"(?<=\.) ", context)
        assert len(sentences) == count
        facts = [parsed(sentence) for sentence in sentences]
        kind, right = by_reading(question, facts)
        assert right == [answer]
        assert len({fact["did"] for fact in facts}) == count  # everyone does something else
        ends = itertools.accumulate(len(sentence) + 1 for sentence in sentences)
        place = next(i for i, end in enumerate(ends) if start < end)
        assert facts[place][kind] == answer  # not where another sentence happens to say the same
        kinds.add(kind)
        places.add(place)
    assert kinds == {"name", "place", "date"}
    assert places == set(range(count))


def by_reading(question, facts):
    """The kind of what is asked for, and all that answers it."""
    if match := re.fullmatch(r"When did (\w+) (\w+)\?", question):
        return "date", [fact["date"] for fact in facts if (fact["name"], DO[fact["did"]]) == match.groups()]
    if match := re.fullmatch(r"Where did (\w+) (\w+)\?", question):
        return "place", [fact["place"] for fact in facts if (fact["name"], DO[fact["did"]]) == match.groups()]
    match = re.fullmatch(r"Who (\w+) in ([\w ]+)\?", question)
    return "name", [fact["name"] for fact in facts if (fact["did"], fact["place"]) == match.groups()]


def texts_of(count, seed):
    return events.labelled(count, seed)[0]


def seasons_of(count, seed):
    return events.labelled(count, seed)[1]


@pytest.mark.parametrize("make", [texts_of, seasons_of, events.tagged, events.questions])
def test_the_seed_says_what_is_drawn_and_the_number_how_many(make):
    one, same, other = (make(33, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert len({str(item) for item in one}) == (4 if make is seasons_of else 33)
    for count in (0, 1, 20):
        assert make(count, seed=1) == one[:count]
