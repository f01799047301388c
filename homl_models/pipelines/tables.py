"""The one reader of tables: comma-separated values (RFC 4180), read strictly."""

import csv

from homl_models.errors import UserError
from homl_models.pipelines import lines

DELIMITERS = ",;\t|"
QUOTES = 'a field with quotes in it stands in quotes, and those within it are doubled ("")'


def read(path, names, label=None):
    """The columns of these names, lists of strings, of a .csv file, also gzipped. "<br />" becomes a space.

    The first line names the columns; it also tells whether commas, semicolons, tabs or bars part them. Every row has a
    field for each column. label: one of the names, of a column of few values, by which a quote that is closed some
    rows too late is noticed. `UserError` names the line.
    """
    text = lines.read(path)
    header, delimiter = _header(path, text, names)
    places = [header.index(name) for name in names]
    columns, long = [[] for _ in names], []
    for first, row in _rows(path, text, delimiter):
        if first == 1 or not row:
            continue
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {first}: the row has {len(row)} fields and the first line names {len(header)} columns; "
                f"a field with {_named(delimiter)} in it stands in quotes"
            )
        for name, column, place in zip(names, columns, places):
            column.append(row[place].replace("<br />", " ").strip())
            if not column[-1]:
                raise UserError(f"{path}, line {first}: the row has no {name}")
        if any("\n" in field for field in row):
            long.append((first, row))
    if not columns[0]:
        raise UserError(f"{path} holds no text; give lines with {' and '.join(names)}")
    if label is not None:
        _refuse_swallowed_rows(path, long, header.index(label), set(columns[names.index(label)]), delimiter)
    return columns


def _header(path, text, names):
    """The names of the columns, and what parts them."""
    amiss = None
    for delimiter in DELIMITERS:
        try:
            _, header = next(_rows(path, text, delimiter), (1, []))
        except UserError as error:  # a quote, which may be right if the fields are parted by something else
            amiss = amiss or error
            continue
        header = [name.strip() for name in header]
        if set(names) <= set(header):
            if twice := [name for name in names if header.count(name) > 1]:
                raise UserError(f"{path} has two columns {twice[0]}; the first line must name each once")
            return header, delimiter
    first = text.partition("\n")[0]
    missing = f"{path} has no columns {' and '.join(names)}; its first line must name them, and is {first[:80]!r}"
    raise amiss or UserError(missing)


def _rows(path, text, delimiter):
    """(number of its first line, fields) of each row."""
    limit = csv.field_size_limit(len(text) + 1)
    numbered = csv.reader((f"{line}\n" for line in lines.split(text)), delimiter=delimiter, strict=True)
    first = 1
    try:
        for row in numbered:
            yield first, row
            first = numbered.line_num + 1
    except csv.Error as error:
        where = f"line {first}" + (f" to {numbered.line_num}" if numbered.line_num > first else "")
        what = "a quote is not closed" if "unexpected end" in str(error) else f"a quote is amiss ({error})"
        raise UserError(f"{path}, {where}: {what}; {QUOTES}") from error
    finally:
        csv.field_size_limit(limit)


def _refuse_swallowed_rows(path, long, place, labels, delimiter):
    """Raise `UserError` where all lines of a field would be rows of their own: its first quote is none."""
    for first, row in long:
        others = labels - {row[place].replace("<br />", " ").strip()} if "\n" in row[place] else labels
        for i, field in enumerate(row):
            if "\n" not in field:
                continue
            parted = [part.split(delimiter) for part in field.split("\n")]
            parted[0], parted[-1] = row[:i] + parted[0], parted[-1] + row[i + 1 :]
            if all(len(one) == len(row) and one[place].strip(' "') in others for one in parted):
                last = first + len(parted) - 1
                raise UserError(f"{path}, line {first}: a quote opens a field that goes on to line {last}; {QUOTES}")


def _named(delimiter):
    return {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}[delimiter]
