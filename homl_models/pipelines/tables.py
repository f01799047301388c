"""The one reader of tables: comma-separated values (RFC 4180), parsed strictly."""

import csv

from homl_models.errors import UserError
from homl_models.pipelines import lines

DELIMITERS = ",;\t|"
QUOTES = 'a field that contains quotes must be quoted, with its quotes doubled ("")'


def read(path, names, label=None):
    """Columns of a .csv file, plain or gzipped, by name: lists of strings. "<br />" becomes a space.

    The first line is the header, from which the delimiter (comma, semicolon, tab or bar) is detected. Every row has a
    field for each column. label: one of the names, of a column with few values, used to detect a quoted field that
    swallowed following rows. `UserError` names the line.
    """
    text = lines.read(path)
    header, delimiter = _header(path, text, names)
    positions = [header.index(name) for name in names]
    columns, multiline = [[] for _ in names], []
    for first, row in _rows(path, text, delimiter):
        if first == 1 or not row:
            continue
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {first}: the row has {len(row)} fields and the first line names {len(header)} columns; "
                f"a field that contains {_named(delimiter)} must be quoted"
            )
        for name, column, position in zip(names, columns, positions):
            column.append(row[position].replace("<br />", " ").strip())
            if not column[-1]:
                raise UserError(f"{path}, line {first}: the row has no {name}")
        if any("\n" in field for field in row):
            multiline.append((first, row))
    if not columns[0]:
        raise UserError(f"{path} holds no text; give lines with {' and '.join(names)}")
    if label is not None:
        _refuse_swallowed_rows(path, multiline, header.index(label), set(columns[names.index(label)]), delimiter)
    return columns


def _header(path, text, names):
    """Names of the columns, and the delimiter."""
    first_error = None
    for delimiter in DELIMITERS:
        try:
            _, header = next(_rows(path, text, delimiter), (1, []))
        except UserError as error:  # of quotes, which may be right with another delimiter
            first_error = first_error or error
            continue
        header = [name.strip() for name in header]
        if set(names) <= set(header):
            if twice := [name for name in names if header.count(name) > 1]:
                raise UserError(f"{path} has two columns {twice[0]}; the first line must name each once")
            return header, delimiter
    first = text.partition("\n")[0]
    missing = f"{path} has no columns {' and '.join(names)}; its first line must name them, and is {first[:80]!r}"
    raise first_error or UserError(missing)


def _rows(path, text, delimiter):
    """Yield (number of its first line, fields) of each row."""
    limit = csv.field_size_limit(len(text) + 1)
    numbered = csv.reader((f"{line}\n" for line in lines.split(text)), delimiter=delimiter, strict=True)
    first = 1
    try:
        for row in numbered:
            yield first, row
            first = numbered.line_num + 1
    except csv.Error as error:
        where = f"line {first}" + (f" to {numbered.line_num}" if numbered.line_num > first else "")
        what = "a quote is not closed" if "unexpected end" in str(error) else f"a quote is wrong ({error})"
        raise UserError(f"{path}, {where}: {what}; {QUOTES}") from error
    finally:
        csv.field_size_limit(limit)


def _refuse_swallowed_rows(path, multiline, position, labels, delimiter):
    """Raise `UserError` where each line of a quoted field parses as a row with a known label: a quote is misplaced.

    multiline: (first line, fields) of rows with such fields. position: of the label among the fields.
    """
    for first, row in multiline:
        others = labels - {row[position].replace("<br />", " ").strip()} if "\n" in row[position] else labels
        for i, field in enumerate(row):
            if "\n" not in field:
                continue
            rows = [line.split(delimiter) for line in field.split("\n")]
            rows[0], rows[-1] = row[:i] + rows[0], rows[-1] + row[i + 1 :]
            if all(len(one) == len(row) and one[position].strip(' "') in others for one in rows):
                last = first + len(rows) - 1
                raise UserError(f"{path}, line {first}: a quote opens a field that ends on line {last}; {QUOTES}")


def _named(delimiter):
    return {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}[delimiter]
