"""YAML with one meaning per text: repeated keys, octal numbers, aliases and nesting are refused with their line."""

import time
from typing import Any

import pytest
import yaml

from otoscope.config.yaml_text import format_yaml, missing_blank, parse_yaml
from otoscope.errors import ConfigError

LEVELS = "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is given twice"),
        ("a:\n  b: {c: 1, c: 1}", "line 2, column 13: the key 'c' is given twice"),
        ("a: 010", "line 1, column 4: 010 begins with 0 and may be octal; write '010' in quotes for text, or 10"),
        ("a: [08]", "08 begins with 0"),
        ("01: a", "line 1, column 1: 01 begins with 0"),
        ("a: !!int abc", "line 1, column 4: the value 'abc' does not fit its tag"),
        ("a: !!timestamp abc", "the value 'abc' does not fit its tag"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: " + "9" * 5000, "line 1, column 4: the number 99999999999999999999... is too large"),
        ("a: &x [*x]", "line 1, column 4: an alias refers to a section that contains it"),
        ("a: &a [1, 1]\n" + LEVELS, r"line \d+, column 4: more than 100,000 values, aliases expanded"),
        ("[" * 5000, "line 1, column 31: nested more than 30 deep"),
        ('a: "\\d"', "unknown escape character 'd'; write text with backslashes in single quotes"),
        ("a:\n\tb: 1", "cannot start any token; indent with blanks"),
        ("a: " * 2000, "mapping values are not allowed"),
        ("\n".join(" " * i + "a:" for i in range(3000)), "line 30, column 30: nested more than 30 deep"),
        ('a: "x\\0y"', r"'x\\x00y' contains a control character"),
        ("a: \x1b", "character 4: special characters are not allowed"),
        ("? [1]\n: 2", "found unhashable key"),
        ("--- 1\n--- 2", "found another document"),
    ],
)
def test_parse_yaml_names_the_line_of_a_fault(text: str, message: str) -> None:
    start_s = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text)
    assert time.monotonic() - start_s < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("true", True),
        ("1e-3", 0.001),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("0.50", 0.5),
        ("1_000", 1000),
        ("0", 0),
        ("2024-13-45", "2024-13-45"),
        ("1:30", "1:30"),
        ("=", "="),
        ("'010'", "010"),
        ("~", None),
        ("", None),
        ("&x {a: 1}", {"a": 1}),
        ("{x: &x {a: 1, b: 2}, y: {<<: *x, b: 3}}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
    ],
)
def test_parse_yaml_reads_scalars_as_yaml_1_2(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    "text", ["010", "08", "1e3", "no", "true", "2024-01-01", "1:30", "~", "", "é\n", "1_0", "=", "a: b"]
)
def test_format_yaml_is_read_back_unchanged(text: str) -> None:
    content = {"groups": [text, text], text: 1.5, "n": 3, "f": 1e-7}
    assert parse_yaml(format_yaml(content)) == content
    assert yaml.safe_load(format_yaml({"a": text})) == {"a": text}


def test_missing_blank_quotes_a_bounded_part_of_the_line() -> None:
    (hint,) = missing_blank(f"a: 1\nkind:folder{'x' * 5000}\n")
    assert hint.startswith("line 2: write a blank after the colon ('kind: folderxxx")
    assert len(hint) < 300
    assert missing_blank("a: {b: \u2018c\u2019}") == ["line 1: write straight quotes (') in the place of curly ones"]
    assert missing_blank("a: s3://bucket\nb: 'C:/x'\nstore: s3:/x\nt: 1:30\n") == []
