"""Generated pairs of written and ISO dates: "April 22, 2019" -> "2019-04-22" (exercise 9 of chapter 16).

The first written form is the book's.
"""

import datetime
import random

FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
SPRING = "January", "February", "March", "April", "May", "June"
MONTHS = *SPRING, "July", "August", "September", "October", "November", "December"  # in English in every locale


def forms(date):
    """The written forms of a date."""
    month, day, year = MONTHS[date.month - 1], date.day, date.year
    suffix = "th" if 4 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return (
        f"{month} {day:02d}, {year}",
        f"{month} {day}, {year}",
        f"{month[:3]} {day}, {year}",
        f"{day} {month} {year}",
        f"the {day}{suffix} of {month} {year}",
        f"{date.month}/{day}/{year}",
        f"{day:02d}.{date.month:02d}.{year}",
    )


def generate(count, seed=0, exclude=frozenset()):
    """`count` pairs (written form, ISO date), dates and forms sampled uniformly; no ISO date of `exclude`."""
    rng, pairs, span = random.Random(seed), [], (LAST - FIRST).days + 1
    while len(pairs) < count:
        date = FIRST + datetime.timedelta(days=rng.randrange(span))
        if date.isoformat() not in exclude:
            pairs.append((rng.choice(forms(date)), date.isoformat()))
    return pairs
