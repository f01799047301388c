"""Generated dates, read back by the standard library."""

import datetime
import re

import numpy as np
import pytest
from scipy import stats

from homl_models.pipelines import dates

FORMATS = {  # of `strptime`, once the letters after a day are gone
    "April 05, 2019": "%B %d, %Y",
    "April 5, 2019": "%B %d, %Y",
    "Apr 5, 2019": "%b %d, %Y",
    "5 April 2019": "%d %B %Y",
    "the 5th of April 2019": "the %d of %B %Y",
    "4/5/2019": "%m/%d/%Y",
    "05.04.2019": "%d.%m.%Y",
}
SHAPES = {
    re.compile(r"[A-Z][a-z]+ \d\d, \d{4}"): "%B %d, %Y",
    re.compile(r"[A-Z][a-z]+ \d{1,2}, \d{4}"): "%B %d, %Y",
    re.compile(r"[A-Z][a-z]{2} \d{1,2}, \d{4}"): "%b %d, %Y",
    re.compile(r"\d{1,2} [A-Z][a-z]+ \d{4}"): "%d %B %Y",
    re.compile(r"the \d{1,2}(st|nd|rd|th) of [A-Z][a-z]+ \d{4}"): "the %d of %B %Y",
    re.compile(r"\d{1,2}/\d{1,2}/\d{4}"): "%m/%d/%Y",
    re.compile(r"\d\d\.\d\d\.\d{4}"): "%d.%m.%Y",
}


def readings(written):
    """Every date that a written form can mean."""
    plain = re.sub(r"(\d)(st|nd|rd|th)\b", r"\1", written)
    found = set()
    for shape, form in SHAPES.items():
        if shape.fullmatch(written):
            try:
                found.add(datetime.datetime.strptime(plain, form).date())
            except ValueError:  # "April" is no three letters
                continue
    return found


def test_the_forms_are_those_that_are_promised():
    assert dates.forms(datetime.date(2019, 4, 5)) == tuple(FORMATS)


def test_every_form_of_every_date_is_read_as_that_date():
    day = dates.FIRST
    while day <= dates.LAST:
        written = dates.forms(day)
        for form, text in zip(FORMATS.values(), written, strict=True):
            plain = re.sub(r"(\d)(st|nd|rd|th)\b", r"\1", text)
            assert datetime.datetime.strptime(plain, form).date() == day
        day += datetime.timedelta(days=29)  # comes over every day of the month and every month


def test_a_generated_pair_has_one_reading_which_is_its_iso_date():
    pairs = dates.generate(2_000, seed=3)
    assert len(pairs) == 2_000
    for written, iso in pairs:
        assert readings(written) == {datetime.date.fromisoformat(iso)}, written
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", iso)


@pytest.mark.parametrize("year", [1904, 2000, 2096])
def test_leap_days_are_generated(year, monkeypatch):
    day = datetime.date(year, 2, 29)
    assert dates.forms(day)[0] == f"February 29, {year}"
    assert all(readings(written) == {day} for written in dates.forms(day))
    monkeypatch.setattr(dates, "FIRST", datetime.date(year, 2, 28))
    monkeypatch.setattr(dates, "LAST", datetime.date(year, 3, 1))
    assert {iso for _, iso in dates.generate(100)} == {f"{year}-02-28", f"{year}-02-29", f"{year}-03-01"}


def test_the_letters_after_a_day_are_english():
    ordinals = """
        1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th 11th 12th 13th 14th 15th 16th 17th 18th 19th 20th
        21st 22nd 23rd 24th 25th 26th 27th 28th 29th 30th 31st
    """
    for day, ordinal in enumerate(ordinals.split(), 1):
        assert f"the {ordinal} of January 1999" in dates.forms(datetime.date(1999, 1, day))


def test_dates_and_forms_are_sampled_uniformly():
    pairs = dates.generate(14_000, seed=1)
    days = np.array([datetime.date.fromisoformat(iso).toordinal() for _, iso in pairs])
    assert dates.FIRST.toordinal() <= days.min() < days.max() <= dates.LAST.toordinal()
    parts = np.histogram(days, 50, (dates.FIRST.toordinal(), dates.LAST.toordinal() + 1))[0]
    assert stats.chisquare(parts).pvalue > 0.01
    shapes = np.array([[bool(shape.fullmatch(written)) for shape in SHAPES] for written, _ in pairs])
    counts = shapes.sum(0)[[3, 4, 5, 6]]  # those that no other form looks like
    assert (
        stats.chisquare([*counts, len(pairs) - counts.sum()], len(pairs) * np.array([1, 1, 1, 1, 3]) / 7).pvalue > 0.01
    )


def test_excluded_dates_are_not_generated():
    test = dates.generate(2_000, seed=1)
    unseen = frozenset(iso for _, iso in test)
    training = dates.generate(20_000, seed=2)
    assert {iso for _, iso in training} & unseen
    kept = dates.generate(20_000, seed=2, exclude=unseen)
    assert len(kept) == 20_000
    assert not {iso for _, iso in kept} & unseen


def test_the_same_seed_gives_the_same_pairs_and_another_one_others():
    assert dates.generate(50, seed=5) == dates.generate(50, seed=5)
    assert dates.generate(50, seed=5) == dates.generate(80, seed=5)[:50]
    assert len({tuple(dates.generate(50, seed=seed)) for seed in range(20)}) == 20


def test_a_count_of_zero_gives_no_pairs():
    assert dates.generate(0) == []
