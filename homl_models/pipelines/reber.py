"""Embedded Reber grammar (Hochreiter & Schmidhuber, 1997, Long Short-Term Memory, section 5.1).

A string of the Reber grammar is a path through a small finite automaton, from B to E.
The embedded grammar puts one between `BT` and `TE`, or between `BP` and `PE`: to predict
the last but one letter, a network must remember the second across the string between.
"""

import random

# state -> (letter, next state) of each transition
REBER = {
    0: [("B", 1)],
    1: [("T", 2), ("P", 3)],
    2: [("S", 2), ("X", 4)],
    3: [("T", 3), ("V", 5)],
    4: [("X", 3), ("S", 6)],
    5: [("P", 4), ("V", 6)],
    6: [("E", 7)],
}
END = 7
LETTERS = "BEPSTVX"


def generate(count, seed=0):
    """`count` strings of the embedded grammar; the transitions of a state are equally likely."""
    rng = random.Random(seed)
    return [_generate_string(rng) for _ in range(count)]


def _generate_string(rng):
    letters, state = [], 0
    while state != END:
        letter, state = rng.choice(REBER[state])
        letters.append(letter)
    outer = rng.choice("TP")
    return f"B{outer}{''.join(letters)}{outer}E"


def corrupted(count, seed=0):
    """`count` strings that the embedded grammar does not accept: one letter of a string of it is another."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        string = _generate_string(rng)
        i = rng.randrange(len(string))
        string = string[:i] + rng.choice(LETTERS.replace(string[i], "")) + string[i + 1 :]
        if not accepts(string):
            found.append(string)
    return found


def accepts(string):
    """Whether the embedded grammar accepts `string`."""
    if len(string) < 4 or string[0] != "B" or string[-1] != "E" or string[1] not in "TP" or string[1] != string[-2]:
        return False
    state = 0
    for letter in string[2:-2]:
        state = dict(REBER.get(state, ())).get(letter)
        if state is None:
            return False
    return state == END
